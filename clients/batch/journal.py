"""Lines that are in a file whole or not at all, whatever stops the program that writes them.

Lines are appended by single writes, so that a killed program leaves at most one torn line, at the very end, where the
next one cuts it off. They reach the disk once a second, so that a loss of power costs no more than that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ...specs.errors import Problem, SpecError
from .durable import replacing, sync_folder, unwritable
from .index import Mask
from .lines import Broken, Solved, read_result

T = TypeVar("T")

SYNC_EVERY = 1.0
"""Seconds between two times that the disk is waited for."""
_BLOCK = 1 << 20


class Journal:
    """A file of lines that only grows. For one thread, of the one program that holds the lock."""

    def __init__(self, path: Path) -> None:
        """The file is made where it is not there yet. Raises `SpecError` where it cannot be written."""
        self.path = path
        self._torn: int | None = None
        self._synced = time.monotonic()
        try:
            new = not path.exists()
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if new:
                sync_folder(path)
        except OSError as error:
            raise unwritable(path, error) from None

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines, all of them or none. Raises `SpecError` where they cannot be written."""
        try:
            self._mend()
            self._torn = os.lseek(self._descriptor, 0, os.SEEK_END)
            rest = memoryview(b"".join(lines))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            self._torn = None
        except BaseException as error:
            with suppress(OSError):  # else at the next call, or by the next program
                self._mend()
            if isinstance(error, OSError):
                raise unwritable(self.path, error) from None
            raise
        if time.monotonic() - self._synced >= SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """Wait until the disk has every line. Raises `SpecError` where it does not take them, or they are in a file
        that nobody will find."""
        try:
            os.fdatasync(self._descriptor)
            if not self.path.exists() or not os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                raise SpecError(
                    f"{self.path}: was removed or replaced while the batch wrote to it, and what it wrote is gone with "
                    "it; start again, or put the file back and go on with --resume"
                )
        except OSError as error:
            raise unwritable(self.path, error) from None
        self._synced = time.monotonic()

    def close(self) -> None:
        """No more lines; those that are there are on the disk. Raises `SpecError` where they are not."""
        if self._descriptor < 0:
            return
        try:
            with suppress(OSError):
                self._mend()
            self.sync()
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def _mend(self) -> None:
        if self._torn is not None:
            os.ftruncate(self._descriptor, self._torn)
            self._torn = None


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file, each with its line feed, save the last one where it is torn; none where there is no file.
    Raises `SpecError` where it cannot be read."""
    try:
        with path.open("rb", buffering=_BLOCK) as stream:
            yield from stream
    except FileNotFoundError:
        return
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from None


def outcomes_of(path: Path, read: Callable[[bytes], T]) -> Iterator[T]:
    """What the lines of a file say. Raises `SpecError` for a line that says nothing.

    The last one may: it was being written when the program before was stopped, and is cut off. Nothing but a hand, or
    a disk that lost what it had confirmed, breaks any other, and whose that is and what else it may have meant is not
    for a program to decide.
    """
    start = 0
    for number, line in enumerate(lines_of(path), 1):
        try:
            if not line.endswith(b"\n"):
                raise Broken("is torn")
            outcome = read(line)
        except Broken as error:
            if start + len(line) < path.stat().st_size:
                message = f"{error}: it is no line of a batch; take it out, and --resume solves its spec again"
                raise SpecError([Problem(message, (), str(path), number)]) from None
            cut(path, start)
            return
        yield outcome
        start += len(line)


def cut(path: Path, size: int) -> None:
    """Leave so many bytes of a file. Raises `SpecError` where it cannot be written."""
    try:
        os.truncate(path, size)
    except OSError as error:
        raise unwritable(path, error) from None


def drop(path: Path, dropped: Mask) -> None:
    """Rewrite a file without the lines that the mask, an entry for each of its first lines, says are to go."""
    with replacing(path) as beside, beside.open("wb", buffering=_BLOCK) as stream:
        for number, line in enumerate(lines_of(path)):
            if number >= len(dropped) or not dropped[number]:
                stream.write(line)


class Lines:
    """Results as JSON lines, in the file that they are appended to."""

    def __init__(self, path: Path) -> None:
        self.journal = path
        self.files = (path,)

    def outcomes(self) -> Iterator[Solved]:
        """What is there, the oldest first. Raises `SpecError`."""
        return outcomes_of(self.journal, read_result)

    def finish(self, outdated: Mask) -> None:
        """The batch is over. outdated: of each of the outcomes that were there, whether it goes."""
        if outdated.any():
            drop(self.journal, outdated)
