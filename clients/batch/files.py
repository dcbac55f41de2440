"""Which files a batch is given: those that its arguments name, folders and patterns walked, none of them twice."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ...specs.errors import SpecError
from .beside import FAILURES, LOCK, PART
from .walking import STDIN, Found, Pattern, Seen, walked

DOCUMENTS, LINES, TABLES = (".yaml", ".yml", ".json"), (".jsonl", ".ndjson"), (".parquet",)
"""Suffixes of files that are one spec, and of those that hold one in each line or row."""

_BESIDE_RESULTS = (FAILURES, PART, LOCK)
_WRITTEN_BY_US = (".plan.json", *_BESIDE_RESULTS)
"""What is no source where it is met in a folder: saved plans, and what batches write."""
_SUFFIXES = (*DOCUMENTS, *LINES, *TABLES)
_KNOWN = "a folder, a pattern, a .yaml, .yml, .json, .jsonl, .ndjson or .parquet file, or - for JSON lines"


class Files:
    """The files of a batch's arguments, in the order of the arguments; a new look at the disk each time."""

    def __init__(self, arguments: Sequence[str | os.PathLike[str]], leave_out: Collection[Path] = ()) -> None:
        """`leave_out`: results of a batch, which folders and patterns pass over with all that is written beside them.

        Raises `SpecError` for an argument that names nothing, or nothing that can be read.
        """
        self.arguments = [os.fspath(argument) for argument in arguments]
        beside = ("", *_BESIDE_RESULTS)
        # Beside the file that a link leads to, not beside the link.
        results = [os.path.realpath(path) for path in leave_out]
        self._left_out = frozenset(os.path.realpath(f"{path}{suffix}") for path in results for suffix in beside)
        if not self.arguments:
            raise SpecError(f"no source is named: name {_KNOWN} on standard input")
        if self.arguments.count(STDIN) > 1:
            raise SpecError(f"{STDIN}: standard input is named twice, and can be read once")
        for argument in self.arguments:
            self._check(argument)

    def __iter__(self) -> Iterator[Found]:
        seen = Seen()
        for argument in self.arguments:
            yield from self._found(argument, seen)

    def _found(self, argument: str, seen: Seen) -> Iterator[Found]:
        if argument == STDIN:
            yield Found(STDIN, given=True)
        elif os.path.isdir(argument):
            everything = Pattern(["**", "*"], _is_source, given=False)
            yield from walked(_plain(argument), everything, seen, self._left_out)
        elif _is_pattern(argument):
            root, parts = _split(argument)
            yield from walked(root, Pattern(parts, _has_suffix, given=True), seen, self._left_out)
        elif seen.first(os.path.realpath(argument)):
            yield Found(_plain(argument), given=True)

    def _check(self, argument: str) -> None:
        if argument == STDIN:
            return
        try:
            if b"\0" in os.fsencode(argument):
                raise ValueError
            mode = None if _is_pattern(argument) else os.stat(argument).st_mode
            if mode is None or stat.S_ISDIR(mode):
                os.scandir(_split(argument)[0] or os.curdir if mode is None else argument).close()
        except OSError as error:
            raise SpecError(f"{argument}: {error.strerror or error}; a source is {_KNOWN} on standard input") from None
        except ValueError:  # a NUL or a lone surrogate
            raise SpecError(f"{argument!r:.100}: is not a path that this system allows") from None
        if mode is None or stat.S_ISDIR(mode):
            if next(self._found(argument, Seen()), None) is None:
                what = "matches" if mode is None else "holds"
                raise SpecError(f"{argument}: {what} no file that is a spec or holds specs ({', '.join(_SUFFIXES)})")
        elif not _has_suffix(argument):
            suffix = os.path.splitext(argument)[1] or "a name without suffix"
            raise SpecError(f"{argument}: {suffix} is no kind of source; a source is {_KNOWN} on standard input")
        elif not stat.S_ISREG(mode):
            raise SpecError(f"{argument}: is not a regular file; give JSON lines to {STDIN}, standard input")
        elif os.path.realpath(argument) in self._left_out:
            raise SpecError(f"{argument}: is written by this batch, and cannot be one of its sources")


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _is_source(name: str) -> bool:
    return _has_suffix(name) and not name.lower().endswith(_WRITTEN_BY_US)


def _is_pattern(argument: str) -> bool:
    return glob.has_magic(argument) and not os.path.lexists(argument)


def _plain(argument: str) -> str:
    """A path without dots and slashes that say nothing; empty for this folder."""
    plain = str(Path(argument))
    return "" if plain == os.curdir else plain


def _split(argument: str) -> tuple[str, list[str]]:
    """The folder that a pattern starts in, and the parts below it."""
    parts = Path(argument).parts
    literal = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return os.path.join(*parts[:literal]) if literal else "", list(parts[literal:])
