"""Files that hold many specs: JSON lines and Parquet tables, streamed, and counted without being read.

Each function gives the documents with their numbers, the first line or row being 1: the text of each, or what
is wrong with it. Memory stays level, whatever the number of lines and rows, and for any length of line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from ...specs.errors import UnsupportedError
from ...specs.reading import LARGEST_DOCUMENT

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

_BLOCK = 2**20
_AT_ONCE = 16 * 2**20
"""Bytes of a table that are held as rows, about."""
_TOO_LONG = f"is larger than {LARGEST_DOCUMENT >> 20} MiB; keep arrays in .npy, .safetensors or .csv files"
_ENCODE = json.JSONEncoder(allow_nan=False).encode
_BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class Row:
    """A line or a row: its number, its text, and what is wrong where that cannot be read."""

    number: int
    text: str = ""
    wrong: str | None = None


def read_lines(stream: IO[bytes]) -> Iterator[Row]:
    """The lines of a stream, save blank ones, which count. Raises `OSError`."""
    number = 0
    while line := stream.readline(LARGEST_DOCUMENT + 2):
        number += 1
        cut = line[-1:] != b"\n" and len(line) == LARGEST_DOCUMENT + 2
        if number == 1:
            line = line.removeprefix(_BOM)
        line = line.strip()
        if cut or len(line) > LARGEST_DOCUMENT:
            yield Row(number, wrong=_TOO_LONG)
            while cut:
                cut = stream.readline(_BLOCK)[-1:] not in (b"\n", b"")
            continue
        if not line:
            continue
        try:
            yield Row(number, line.decode())
        except UnicodeDecodeError as error:
            yield Row(number, wrong=f"is not UTF-8 text ({error.reason} at byte {error.start} of the line)")


def count_lines(path: str) -> int:
    """How many lines a file has, blank ones included. Raises `OSError`."""
    count, last = 0, b"\n"
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


class Table:
    """A Parquet file with a spec in each row: JSON in a column named `spec`, or a field in each column.

    A row that is fields becomes JSON without what is null; numbers that are not finite become strings, as in a spec.
    """

    def __init__(self, path: str) -> None:
        """Raises `UnsupportedError` without pyarrow, and `ValueError` for a file that it cannot read."""
        self._path = path
        with self._opened() as file, _told():
            self._schema = file.schema_arrow
            self.rows: int = file.metadata.num_rows
            size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
        self._batch = max(1, min(1024, _AT_ONCE * self.rows // max(size, 1)))

    def has_specs(self) -> bool:
        """Whether a row can be a spec at all; a table without these columns is data of some spec."""
        return "spec" in self._schema.names or "kind" in self._schema.names

    def read(self) -> Iterator[Row]:
        """The rows. Raises `ValueError` for columns that hold what no spec can say, and for a broken file."""
        text = self._text()
        number = 0
        with self._opened() as file:
            batches = file.iter_batches(self._batch, use_threads=False)
            while True:
                with _told():
                    batch = next(batches, None)
                if batch is None:
                    return
                for row in _rows(batch):
                    number += 1
                    document = None if row is None else text(row)
                    if document is None:
                        yield Row(number, wrong="is not UTF-8 text" if row is None else "has null in the column 'spec'")
                    elif len(document) > LARGEST_DOCUMENT:
                        yield Row(number, wrong=_TOO_LONG)
                    else:
                        yield Row(number, document)

    def _text(self) -> Callable[[dict[str, Any]], str | None]:
        """What makes a document of a row."""
        names = self._schema.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"has two columns named {twice!r:.60}")
        if "spec" in names:
            there = self._schema.field("spec").type
            if not _is_text(there):
                raise ValueError(f"its column 'spec' must hold JSON as strings, not {there}")
            return lambda row: row["spec"]
        if "kind" not in names:
            raise ValueError("has neither a column 'spec' of JSON documents nor a column 'kind' beside other fields")
        for column in self._schema:
            if not _is_plain(column.type):
                raise ValueError(f"its column {column.name!r:.60} holds {column.type}, which no field of a spec can be")
        return _as_json

    def _opened(self) -> parquet.ParquetFile:
        try:
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise UnsupportedError("Parquet files need pyarrow: pip install 'equipoise[parquet]'") from None
        with _told():  # without the buffers, a whole group of rows would be read at once
            return parquet.ParquetFile(
                self._path, buffer_size=_BLOCK, pre_buffer=False, page_checksum_verification=True
            )


@contextmanager
def _told() -> Iterator[None]:
    """`ValueError` for all that pyarrow raises on a broken file."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, ValueError) as error:
        first, *_ = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"is not a .parquet file that pyarrow can read: {first}") from None


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch; None for one whose text is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(len(batch)):
            try:
                row = batch.slice(number, 1).to_pylist()[0]
            except UnicodeDecodeError:
                row = None
            yield row


def _as_json(row: dict[str, Any]) -> str:
    document = _without_nulls(row)
    try:
        return _ENCODE(document)
    except ValueError:
        return _ENCODE(_strict(document))


def _without_nulls(value: Any) -> Any:
    """A value without the fields that are null; in lists, which have places, they stay."""
    if isinstance(value, dict):
        return {name: _without_nulls(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, list) and isinstance(next(filter(None, value), None), (dict, list)):
        return [_without_nulls(entry) for entry in value]
    return value


def _strict(value: Any) -> Any:
    match value:
        case dict():
            return {name: _strict(entry) for name, entry in value.items()}
        case list():
            return [_strict(entry) for entry in value]
        case float() if not math.isfinite(value):
            return str(value)
        case _:
            return value


def _is_text(there: pa.DataType) -> bool:
    from pyarrow import types

    there = there.value_type if types.is_dictionary(there) else there
    return types.is_string(there) or types.is_large_string(there) or types.is_string_view(there)


def _is_plain(there: pa.DataType) -> bool:
    """Whether JSON can say all values of a type."""
    from pyarrow import types

    if types.is_struct(there):
        return all(_is_plain(field.type) for field in there)
    if types.is_nested(there):
        return hasattr(there, "value_type") and not types.is_map(there) and _is_plain(there.value_type)
    if types.is_dictionary(there):
        return _is_plain(there.value_type)
    number = types.is_boolean(there) or types.is_integer(there) or types.is_float32(there) or types.is_float64(there)
    return number or types.is_null(there) or _is_text(there)
