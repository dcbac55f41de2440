"""Algorithms of our own: one module per kind of task, and the families of methods that they share.

A module `algorithms/KIND.py` names its class `ALGORITHM`. The families (`budget`, `matching`, `makespan`) know no
specs: they are machine code over plain arrays, compiled when they are imported.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...specs.errors import SolveTimeout
from ..algorithm import Algorithm
from ..control import POLL, Progress, Watcher

LONG = 0.5
"""Seconds of compiling from which on a certificate tells of it."""


@dataclass(frozen=True)
class Loaded:
    """The algorithm of a kind, and how long this process took to compile it; 0 if that was done before."""

    algorithm: type[Algorithm[Any, Any]]
    seconds: float


@cache
def algorithm_kinds() -> tuple[str, ...]:
    """The kinds of task that have an algorithm."""
    from ...specs.spec import kinds

    folder = Path(__file__).parent
    return tuple(kind for kind in kinds() if (folder / f"{kind}.py").is_file())


def load(kind: str, watch: Watcher | None = None) -> Loaded | None:
    """The algorithm of a kind, its machine code ready; None where there is none.

    The first import on a machine compiles for seconds: then the watcher is called, and returning False gives up with
    `SolveTimeout`. The compiling goes on in the background, to be there the next time.
    """
    name = f"{__name__}.{kind}"
    if (module := sys.modules.get(name)) is not None and hasattr(module, "ALGORITHM"):
        return Loaded(module.ALGORITHM, 0.0)
    if kind not in algorithm_kinds():
        return None
    started = time.perf_counter()
    if watch is None:
        module = importlib.import_module(name)
    else:
        _import_watched(name, watch)
        module = sys.modules[name]
    return Loaded(module.ALGORITHM, time.perf_counter() - started)


def _import_watched(name: str, watch: Watcher) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            importlib.import_module(name)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="equipoise-compile")
    started = time.perf_counter()
    thread.start()
    while thread.is_alive():
        thread.join(POLL)
        seconds = time.perf_counter() - started
        if thread.is_alive() and watch(Progress(seconds, stage="compiling machine code, once")) is False:
            raise SolveTimeout("interrupted while machine code was compiled; `equipoise warmup` does that beforehand")
    if errors:
        raise errors[0]
