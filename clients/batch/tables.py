"""Results as a Parquet table, a row each: made at the end of a batch from the JSON lines that it wrote until then.

A table cannot grow line by line. So the lines are the results until the table has all of them and stands in its place;
where a batch is stopped in between, both are there and say the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...specs.errors import SpecError, UnsupportedError
from .beside import PART
from .durable import replacing, unwritable
from .index import Mask
from .journal import lines_of, outcomes_of
from .lines import Broken, Solved, document_of, number_of, read_result, solved_of

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema
    from pyarrow.parquet import ParquetFile

GROUP_ROWS, GROUP_BYTES = 10_000, 64 << 20
"""Rows, and bytes of their lines, after which a row group is written: what is in memory at once."""

_KNOWN = ("file", "line", "sweep", "kind", "status", "gap", "seconds", "digest")
"""Columns that a later run needs."""
_WHOLE = ("sweep", "plan", "certificate", "check")
"""Columns of JSON documents."""
_FIGURES = ("objective", "bound", "gap", "seconds")


class Table:
    """Results as a Parquet file, and as the JSON lines that are to become one."""

    def __init__(self, path: Path) -> None:
        """Raises `UnsupportedError` where pyarrow is not installed."""
        try:
            import pyarrow.parquet  # noqa: F401
        except ModuleNotFoundError:
            raise UnsupportedError(
                f"{path}: Parquet needs pyarrow: pip install 'equipoise[parquet]'; or name a .jsonl file"
            ) from None
        self._path, self.journal = path, Path(f"{path}{PART}")
        self.files = (path, self.journal)
        self._rows = 0

    def outcomes(self) -> Iterator[Solved]:
        """What is there, the oldest first. Raises `SpecError`."""
        self._rows = 0
        for batch in self._batches(_KNOWN):
            for row in batch.to_pylist():
                self._rows += 1
                try:
                    yield _outcome(row)
                except Broken as error:
                    raise SpecError(f"{self._path}: row {self._rows}: {error}; name another output") from None
        yield from outcomes_of(self.journal, read_result)

    def finish(self, outdated: Mask) -> None:
        """The batch is over: the lines become part of the table. outdated: of each of the outcomes that were there,
        whether it goes. Raises `SpecError` where the table cannot be written; the lines stay then."""
        before, lines = outdated[: self._rows], outdated[self._rows :]
        if before.any() or self.journal.stat().st_size or not self._is_there():
            try:
                with replacing(self._path) as beside:
                    self._write(beside, before, lines)
            except Broken as error:
                raise SpecError(f"{self.journal}: a line {error}; take it out, and go on with --resume") from None
        try:
            self.journal.unlink()
        except OSError as error:
            raise unwritable(self.journal, error) from None

    def _write(self, beside: Path, before: Mask, lines: Mask) -> None:
        import pyarrow as arrow
        from pyarrow.parquet import ParquetWriter

        schema, row = _schema(), 0
        with ParquetWriter(beside, schema, compression="zstd") as writer:
            for batch in self._batches(schema.names):
                kept = ~before[row : row + len(batch)]
                row += len(batch)
                writer.write_batch(batch.filter(arrow.array(kept)))
            numbered = enumerate(lines_of(self.journal))
            kept = (line for number, line in numbered if number >= len(lines) or not lines[number])
            for group in _groups(kept):
                columns = zip(*(_row(document_of(line), schema.names) for line in group), strict=True)
                writer.write_batch(
                    arrow.RecordBatch.from_arrays(list(map(arrow.array, columns, schema.types)), schema=schema)
                )

    def _is_there(self) -> bool:
        return self._path.exists() and self._path.stat().st_size > 0

    def _batches(self, columns: Iterable[str]) -> Iterator[RecordBatch]:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        if not self._is_there():
            return
        try:
            with ParquetFile(self._path) as table:
                if not table.schema_arrow.equals(_schema()):
                    raise SpecError(f"{self._path}: is not a table of results that a batch wrote; name another output")
                yield from _streamed(table, columns)
        except (ArrowException, OSError) as error:
            raise SpecError(f"{self._path}: is not a Parquet file that pyarrow can read: {error}") from None


def _streamed(table: ParquetFile, columns: Iterable[str]) -> Iterator[RecordBatch]:
    # Row groups are as large as may be in memory; pyarrow would read ahead, and keep all.
    for group in range(table.num_row_groups):
        yield from table.iter_batches(GROUP_ROWS, row_groups=[group], columns=list(columns), use_threads=False)


def _schema() -> Schema:
    import pyarrow as arrow

    names = ("file", "line", "sweep", "kind", "name", "status", *_FIGURES, "method", "plan", "certificate", "check")
    types = dict.fromkeys(_FIGURES, arrow.float64()) | {"line": arrow.int64()}
    return arrow.schema([(name, types.get(name, arrow.string())) for name in (*names, "digest")])


def _groups(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    group, size = list[bytes](), 0
    for line in lines:
        group.append(line)
        size += len(line)
        if len(group) == GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _row(document: dict[str, Any], names: Iterable[str]) -> list[Any]:
    certificate = document.get("certificate")
    if not isinstance(certificate, dict):
        raise Broken("has no certificate")
    row = {**certificate, **document}
    for name in _FIGURES:
        row[name] = number_of(certificate, name)
    for name in _WHOLE:
        row[name] = None if document.get(name) is None else json.dumps(document[name])
    return [row.get(name) for name in names]


def _outcome(row: dict[str, Any]) -> Solved:
    sweep = row["sweep"]
    if sweep is not None:
        row["sweep"] = document_of(sweep.encode())
    return solved_of(row | {"certificate": row})
