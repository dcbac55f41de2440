"""Machine code for the algorithms, by Numba: compiled when its module is imported, and kept on disk.

A function states its types where it is defined, so that it has one machine code for ever and nothing is compiled
inside a call:

    @compiled(none(reals, integers, out_integers))
    def place(load, waiting, worker): ...

`reals` and its like are read-only views, which an array in a spec is; what a function writes to is an `out_…`.
It releases the interpreter lock. A compiled function may call those of modules in its own folder: Numba looks for
changes in the file of a function alone, so the code is kept in a folder named after all sources that went into it.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import config as numba_config
from numba.core.types import Array, none, uint8
from numba.core.types import boolean as flag
from numba.core.types import float64 as real
from numba.core.types import int64 as integer

F = TypeVar("F", bound=Callable[..., Any])
config: Any = numba_config  # its names are set when Numba is imported
njit: Any = numba.njit  # its stubs leave some options out

reals = Array(real, 1, "C", readonly=True)
real_table = Array(real, 2, "C", readonly=True)
integers = Array(integer, 1, "C", readonly=True)
integer_table = Array(integer, 2, "C", readonly=True)
flags = Array(flag, 1, "C", readonly=True)
out_reals = Array(real, 1, "C")
out_real_table = Array(real, 2, "C")
out_integers = Array(integer, 1, "C")
out_integer_table = Array(integer, 2, "C")
out_flags = Array(flag, 1, "C")

__all__ = [
    "Made",
    "compiled",
    "flag",
    "flags",
    "integer",
    "integer_table",
    "integers",
    "made",
    "none",
    "out_flags",
    "out_integer_table",
    "out_integers",
    "out_real_table",
    "out_reals",
    "real",
    "real_table",
    "reals",
    "uint8",
]


@dataclass(frozen=True)
class Made:
    """One function's machine code: how long it took to have it, and whether it was on disk already.

    kept: whether it is on disk now; a folder that cannot be written to leaves it to be compiled in every process.
    """

    name: str
    seconds: float
    found: bool
    kept: bool


made: list[Made] = []
"""All machine code of this process, in the order in which it was made."""


def compiled(signature: Any, allocates: bool = True) -> Callable[[F], F]:
    """Compiles a function for one signature, or reads it from disk; divisions by zero follow IEEE 754.

    allocates: whether the function makes arrays. One that makes none need not count the references to those that it
    takes out of records, which is most of the time of a short one; Numba refuses it if it makes one after all.
    """

    def decorate(function: F) -> F:
        started = time.perf_counter()
        with _kept_in(_folder(Path(function.__code__.co_filename))) as kept:
            code = njit(signature, cache=kept, nogil=True, error_model="numpy", _nrt=allocates)(function)
        found = kept and not code.stats.cache_misses
        made.append(Made(f"{function.__module__}.{function.__qualname__}", time.perf_counter() - started, found, kept))
        return cast(F, code)

    return decorate


@contextmanager
def _kept_in(folder: Path | None) -> Iterator[bool]:
    """Lets Numba keep what is compiled meanwhile in a folder; false if there is none."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder or "")
    try:
        yield folder is not None
    finally:
        config.CACHE_DIR = before


@cache
def _folder(file: Path) -> Path | None:
    """Where the code of a file is kept: as NUMBA_CACHE_DIR says, beside the file, or in the user's cache; None if
    none of them can be written to."""
    name = f"{file.stem}-{_fingerprint(file)}"
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    for place in [Path(chosen)] if chosen else [file.parent / "__pycache__", Path(user) / "equipoise"]:
        try:
            (place / name).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place / name).close()
        except OSError:
            continue
        if place.name == "__pycache__":  # what older sources left
            for old in place.glob(f"{file.stem}-{'?' * FINGERPRINT}"):
                if old.name != name:
                    shutil.rmtree(old, ignore_errors=True)
        return place / name
    return None


FINGERPRINT = 16
"""Hexadecimal digits that tell one state of the sources from another."""


def _fingerprint(file: Path) -> str:
    """A digest of a source file and of those of its folder that it imports, directly or not."""
    seen, open_ = dict[Path, bytes](), [file]
    while open_:
        path = open_.pop()
        if path in seen or not path.is_file():
            continue
        seen[path] = path.read_bytes()
        imports = [node for node in ast.walk(ast.parse(seen[path])) if isinstance(node, ast.ImportFrom)]
        open_ += [path.parent / f"{node.module}.py" for node in imports if node.level == 1 and node.module]
    state = hashlib.sha256()
    for path in sorted(seen):
        state.update(path.name.encode() + seen[path])
    return state.hexdigest()[:FINGERPRINT]
