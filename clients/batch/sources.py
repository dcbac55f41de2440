"""What a batch is asked to solve: every spec in its sources, streamed one by one, sweeps unfolded.

A document is handed on as text, whatever it says: who solves it reads it, in another process. Only one with a sweep is
looked into here. What cannot be read is handed on too, with the reason, and the rest goes on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import IO

from ...specs.errors import Problem, SpecError, UnsupportedError
from ...specs.reading import TaskDocument, read_text
from .files import LINES, TABLES, Files
from .rows import Row, Table, count_lines, read_lines
from .tasks import Place, Task, Unread
from .walking import STDIN, Found

Item = Task | Unread


class Sources:
    """The tasks of some arguments, in order: of folders and patterns by name, of files by line, of sweeps by point.

    Each iteration reads the files anew; standard input can be read once. Nothing comes twice, however it is named.
    """

    def __init__(self, arguments: Sequence[str | os.PathLike[str]], leave_out: Collection[Path] = ()) -> None:
        self._files = Files(arguments, leave_out)
        for argument in self._files.arguments:
            if os.path.isfile(argument) and argument.lower().endswith(TABLES):
                _look(argument)

    def __iter__(self) -> Iterator[Item]:
        for found in self._files:
            yield from _read(found)

    def expected(self) -> int | None:
        """How many documents there are, sweeps not unfolded and blank lines counted; None where standard input is one
        of the sources. It reads all lines there are, and may run beside the tasks."""
        if STDIN in self._files.arguments:
            return None
        return sum(_count(found) for found in self._files)


def sources(arguments: Sequence[str | os.PathLike[str]], leave_out: Collection[Path] = ()) -> Sources:
    """The tasks of arguments: folders, patterns, files that are a spec or hold specs, `-` for JSON lines on standard
    input. `leave_out`: results of the batch, which folders and patterns pass over with all that is written beside them.

    Raises `SpecError` for an argument that names nothing or nothing that can be read, and `UnsupportedError` for a
    Parquet file without pyarrow.
    """
    return Sources(arguments, leave_out)


def _look(path: str) -> None:
    """Raises `UnsupportedError` where no table can be read at all; what is wrong with this one is told in its turn."""
    with suppress(ValueError):
        Table(path)


def _read(found: Found) -> Iterator[Item]:
    if found.trouble is not None:
        yield _unread(found, found.trouble)
    elif found.path == STDIN or found.suffix in LINES:
        yield from _lines(found)
    elif found.suffix in TABLES:
        yield from _table(found)
    else:
        yield from _document(found)


def _stdin() -> AbstractContextManager[IO[bytes]]:
    """Standard input, by a reader of its own: as it ends, Python wants the one that all share, which a thread that
    still waits for a line would hold."""
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except (OSError, ValueError):  # no file, as in tests
        return nullcontext(sys.stdin.buffer)


def _document(found: Found) -> Iterator[Item]:
    path = Path(found.path)
    try:
        text = read_text(path)
    except SpecError as error:
        yield Unread(Place(found.shown), error)
    else:
        yield from _points(Task(Place(found.shown), text, path.parent), "sweep")


def _lines(found: Found) -> Iterator[Item]:
    standard = found.path == STDIN
    folder = Path.cwd() if standard else Path(found.path).parent
    try:
        with _stdin() if standard else open(found.path, "rb") as stream:
            yield from _many(found, read_lines(stream), folder)
    except OSError as error:
        yield _unread(found, error.strerror or str(error))


def _table(found: Found) -> Iterator[Item]:
    try:
        table = Table(found.path)
        if found.given or table.has_specs():
            yield from _many(found, table.read(), Path(found.path).parent)
    except (ValueError, UnsupportedError) as error:
        yield _unread(found, str(error))


def _many(found: Found, rows: Iterable[Row], folder: Path) -> Iterator[Item]:
    for row in rows:
        if row.wrong is None:
            yield from _points(Task(Place(found.shown, row.number), row.text, folder), '"sweep"')
        else:
            yield _unread(found, row.wrong, row.number)


def _points(task: Task, word: str) -> Iterator[Item]:
    """The tasks of a document: one for each point if there is a sweep in it, which it must say by `word`."""
    if word not in task.text:
        yield task
        return
    file, line = task.place.file, task.place.line
    try:
        document = TaskDocument(task.text, file, line)
    except SpecError:  # who solves it will find out, and tell it as of any other document
        yield task
        return
    try:
        grid = document.points()
    except SpecError as error:
        yield Unread(task.place, error, document.name)
        return
    if grid is None:
        yield task
    else:
        yield from (Task(Place(file, line, point), task.text, task.folder) for point in grid)


def _unread(found: Found, reason: str, line: int | None = None) -> Unread:
    return Unread(Place(found.shown, line), SpecError([Problem(reason, (), found.shown, line)]))


def _count(found: Found) -> int:
    with suppress(OSError, ValueError, UnsupportedError):  # which are told once, in their turn
        if found.suffix in LINES and not found.trouble:
            return count_lines(found.path)
        if found.suffix in TABLES and not found.trouble:
            table = Table(found.path)
            return table.rows if found.given or table.has_specs() else 0
    return 1
