"""Where the outcomes of a batch go, so that one that was stopped, however it was, goes on where it stopped.

Beside the output OUT stand `OUT.failures.jsonl`, a line for each task without a plan, and `OUT.batch.json`, the lock.
Results are appended as JSON lines: to OUT itself, or for a Parquet file to `OUT.part.jsonl`, of which OUT is made at
the end. What is there is not rewritten while the batch goes on; lines that are out of date go when it is over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...specs.errors import SpecError
from .beside import FAILURES, LOCK, PART
from .index import Index, Mask
from .journal import Journal, Lines, drop, outcomes_of
from .lines import Failed, Solved, failure_line, read_failure, result_line
from .lock import Lock, refuse_other_options
from .tables import Table
from .tally import Tally
from .tasks import Task, Unread

SUFFIXES = (".jsonl", ".ndjson", ".parquet")


class Output:
    """The results and failures of a batch, in files; a context that closes it.

    For one thread, but that another may ask `has`, which looks at nothing but what was there when the batch started.
    tally: of all outcomes, those that were there before included, save failures that are tried again. `close` puts a
        new one in its place where outcomes replaced others.
    """

    def __init__(
        self, path: Path, options: Mapping[str, Any], resume: bool = False, retry_failed: bool = False
    ) -> None:
        """path: of OUT. options: all that results depend on, as JSON carries it. resume: go on with what is there, if
        anything is. retry_failed: a failure that is there does not count as an outcome of its task.

        Raises `SpecError` where OUT cannot be written, is there and not gone on with, was made under other options, or
        is another batch's; `UnsupportedError` where its format needs a package that is not installed.
        """
        self.path = _target(path)
        self.failures_path = Path(f"{self.path}{FAILURES}")
        self.tally = Tally()
        self._retry = retry_failed
        self._store = Table(self.path) if self.path.suffix == ".parquet" else Lines(self.path)
        self._failures: Journal | None = None
        self._earlier, self._earlier_failures = Index(()), 0
        self._lock = Lock(Path(f"{self.path}{LOCK}"), self.path)
        try:
            self._go_on(options, resume)
            self._lock.write(options)
            self._results = Journal(self._store.journal)
        except BaseException:
            self._lock.release()
            raise

    @property
    def results_path(self) -> Path:
        """The file that the results are in: OUT, or for a table that is not made yet its lines."""
        lines = self._results.path
        return lines if lines.exists() and lines.stat().st_size else self.path

    def has(self, task: Task | Unread) -> bool:
        """Whether there is an outcome of that very place and text already."""
        if not len(self._earlier):
            return False
        first = self._earlier_failures if self._retry else 0
        return self._earlier.holds(task.place.key(), task.digest(), first)

    def add(self, results: Sequence[Solved]) -> None:
        """Write results, all of them or none. Raises `SpecError` where they cannot be written."""
        self._results.append([result_line(solved) for solved in results])
        self._keep(results)

    def fail(self, failures: Sequence[Failed]) -> None:
        """Write failures, all of them or none. Raises `SpecError` where they cannot be written."""
        if not failures:
            return
        if self._failures is None:
            self._failures = Journal(self.failures_path)
        self._failures.append([failure_line(failed) for failed in failures])
        self._keep(failures)

    def close(self, finished: bool) -> None:
        """Wait for the disk, and let go. finished: every task has its outcome; then what is out of date goes, and a
        Parquet file is made. Raises `SpecError` where the disk does not take it; nothing is lost then."""
        if not self._lock.held:
            return
        try:
            self._results.close()
            if self._failures is not None:
                self._failures.close()
            if finished:
                self._finish()
            elif self._earlier.outdated.any():  # it stays for now, and counts no more
                with suppress(SpecError):
                    self._count(self._earlier.outdated)
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.close(finished=error is None)

    def _go_on(self, options: Mapping[str, Any], resume: bool) -> None:
        # An empty file has nothing to lose: a batch was stopped before its first outcome.
        there = [file for file in (*self._store.files, self.failures_path) if file.exists() and file.stat().st_size]
        if not there:
            return
        if not resume:
            raise SpecError(f"{there[0]}: exists; go on with it by --resume, or name another output")
        before = self._lock.options()
        if before is None:
            raise SpecError(
                f"{there[0]}: exists without {self._lock.path}, which says under which options it was made; "
                "name another output"
            )
        refuse_other_options(self.path, before, options)
        self._earlier = Index(self._counted())
        self._earlier.compare(self._earlier_failures)
        if self._earlier.outdated.any():
            self._count(self._earlier.outdated)

    def _counted(self) -> Iterator[tuple[bytes, bytes]]:
        for outcome in self._outcomes():
            failure = isinstance(outcome, Failed)
            self._earlier_failures += failure
            if not (failure and self._retry):
                outcome.tell(self.tally)
            yield outcome.place.key(), outcome.digest

    def _outcomes(self) -> Iterator[Failed | Solved]:
        # Results last: of a failure and a result of one text, the result is the newer.
        yield from outcomes_of(self.failures_path, read_failure)
        yield from self._store.outcomes()

    def _count(self, outdated: Mask) -> None:
        self.tally = Tally()
        for number, outcome in enumerate(self._outcomes()):
            if number >= len(outdated) or not outdated[number]:
                outcome.tell(self.tally)

    def _keep(self, outcomes: Sequence[Solved] | Sequence[Failed]) -> None:
        if len(self._earlier):
            for outcome in outcomes:
                self._earlier.replaced(outcome.place.key())
        for outcome in outcomes:
            outcome.tell(self.tally)

    def _finish(self) -> None:
        outdated = self._earlier.outdated
        failures, results = outdated[: self._earlier_failures], outdated[self._earlier_failures :]
        self._store.finish(results)
        if failures.any():
            drop(self.failures_path, failures)
            if not self.failures_path.stat().st_size:
                self.failures_path.unlink()
        if outdated.any() or (self._retry and self._earlier_failures):
            self._count(np.zeros(0, np.bool_))


def _target(path: Path) -> Path:
    """The file that an output's path leads to. Raises `SpecError` for one that cannot be written."""
    try:
        target = Path(os.path.realpath(path))
        if target.suffix not in SUFFIXES or target.name.endswith((FAILURES, PART)):
            raise SpecError(f"{path}: results are written to a file that ends in .jsonl, .ndjson or .parquet; name one")
        if not target.parent.is_dir():
            raise SpecError(f"{path}: the folder {target.parent} is not there; make it, or name another")
        if target.exists() and not target.is_file():
            raise SpecError(f"{path}: is not a regular file, and results are written to one; name another")
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from None
    except ValueError:  # a NUL or a lone surrogate
        raise SpecError(f"{str(path)!r:.100}: is not a path that this system allows") from None
    return target
