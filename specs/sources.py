"""Reading the arrays and tables that a spec keeps in files beside it.

A reference is `{file: scores.npy}`, `{file: batch.safetensors, tensor: scores}`,
`{file: trace.csv, column: tokens, rows: [0, 512]}` (also `.parquet`, through the extra `parquet`), and for a
whole table `{file: prompts.csv, columns: {tokens: input_tokens}}`, where `columns` maps a field to the
column it is read from. Paths are relative to the spec. A claimed shape is held against the size of the file
before any memory is taken.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
import stat
import struct
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import Fault

FILE_SCHEMA: dict[str, Any] = {
    "file": {"type": "string", "description": "Path, relative to the spec."},
    "rows": {
        "type": "array",
        "items": {"type": "integer", "minimum": 0},
        "minItems": 2,
        "maxItems": 2,
        "description": "First row, and the row after the last.",
    },
}
"""JSON Schema of what every file reference may say."""
LARGEST_ARRAY = 2**28
"""Numbers in one array, at most (2 GiB of float64)."""

_MOST_AXES = 8
_BAD_HEADER = (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError, TypeError, OSError)
"""What numpy raises at the header of a .npy file, depending on what is wrong with it."""
_NUMPY_HAS = {"BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "F16", "F32", "F64"}


@dataclass(frozen=True)
class Folder:
    """Where the relative paths of a spec start, and whether it may read files at all.

    A spec that came over a network must not read this machine's disk: `Folder(None)` refuses every reference.
    """

    path: Path | None


class Cells(list[str]):
    """A column of a CSV file as text: numbers where a field wants numbers, names where it wants names.

    lines: the line of the file that each cell ends on.
    """

    def __init__(self, cells: Sequence[str], file: str, lines: Sequence[int]) -> None:
        super().__init__(cells)
        self.file, self.lines = file, lines

    def place(self, row: int) -> str:
        """Where a cell stands: `prompts.csv:3`."""
        return f"{self.file}:{self.lines[row]}"


LONGEST_WORD, COMPARED, LISTED = 100, 1000, 20
"""Characters of a word, and choices, that are compared to find what was meant; and choices listed where none is."""


def suggest(word: str, choices: Sequence[str]) -> str:
    """`; did you mean 'trials'?`, or the choices where none is close."""
    close = difflib.get_close_matches(word[:LONGEST_WORD], choices[:COMPARED], n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    listed = ", ".join(repr(choice) for choice in choices[:LISTED]) + (", …" if len(choices) > LISTED else "")
    return f"; there are {listed}" if choices else ""


def is_reference(value: Any) -> bool:
    """Whether a value of a spec points to a file instead of holding its numbers."""
    return isinstance(value, Mapping) and "file" in value


def read_array(reference: Mapping[str, Any], folder: Folder) -> NDArray[Any] | Sequence[Any]:
    """The array, or the column of a table, that a reference points to. Raises `Fault`."""
    path = _path(reference, folder, {"file", "tensor", "column", "rows"})
    match path.suffix:
        case ".npy":
            _refuse_keys(reference, path, "tensor", "column")
            array = _read_npy(path)
        case ".safetensors":
            _refuse_keys(reference, path, "column")
            array = _read_safetensors(path, reference.get("tensor"))
        case ".csv" | ".parquet":
            _refuse_keys(reference, path, "tensor")
            column = reference.get("column")
            if not isinstance(column, str):
                raise Fault(f"{path.name} is a table: name the column to read, as in `column: tokens`")
            return _read_columns(path, {column: column}, _rows(reference))[column]
        case other:
            raise Fault(f"cannot read {other or 'a file without suffix'}; use .npy, .safetensors, .csv or .parquet")
    return _part(path, array, _rows(reference))


def read_table(reference: Mapping[str, Any], folder: Folder, fields: Sequence[str]) -> dict[str, Any]:
    """The columns of a table file, by field. Raises `Fault`.

    Without `columns`, every column of the file must be named like a field.
    """
    path = _path(reference, folder, {"file", "columns", "rows"})
    wanted = reference.get("columns")
    if wanted is not None and not (
        isinstance(wanted, Mapping) and all(isinstance(name, str) for name in wanted.values())
    ):
        raise Fault(f"must map fields to the file's columns, got {wanted!r:.60}", "columns")
    match path.suffix:
        case ".csv" | ".parquet":
            return _read_columns(path, wanted, _rows(reference))
        case ".safetensors":
            names = wanted or {field: field for field in _safetensors_names(path) if field in fields}
            rows = _rows(reference)
            return {field: _part(path, _read_safetensors(path, name), rows) for field, name in names.items()}
        case other:
            raise Fault(
                f"cannot read a table from {other or 'a file without suffix'}; use .csv, .parquet or .safetensors"
            )


def _path(reference: Mapping[str, Any], folder: Folder, known: set[str]) -> Path:
    for key in reference:
        if key not in known:
            raise Fault(f"is not part of a file reference{suggest(str(key), sorted(known))}", str(key))
    name = reference["file"]
    if not isinstance(name, str) or not name:
        raise Fault(f"must be a path, got {name!r:.60}", "file")
    if folder.path is None:
        raise Fault(f"refers to the file {name!r:.60}, and files are not read for a remote caller: send the numbers")
    path = folder.path / name
    try:
        name.encode()  # a lone surrogate names no file and cannot be printed
        there = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        there = False
    except (OSError, ValueError):
        raise Fault(f"must be a path that this system allows, got {name!r:.60}", "file") from None
    if not there:
        raise Fault(f"no such file: {path}", "file")
    return path


def _refuse_keys(reference: Mapping[str, Any], path: Path, *keys: str) -> None:
    for key in keys:
        if key in reference:
            raise Fault(f"does not apply to {path.suffix} files", key)


def _rows(reference: Mapping[str, Any]) -> slice | None:
    rows = reference.get("rows")
    if rows is None:
        return None
    match rows:
        case [int(first), int(last)] if 0 <= first <= last and bool not in (type(first), type(last)):
            return slice(first, last)
        case _:
            raise Fault(f"must be [first, last) with 0 ≤ first ≤ last, got {rows!r:.60}", "rows")


def _read_npy(path: Path) -> NDArray[Any]:
    with _opened(path, "rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(stream)
        except _BAD_HEADER as error:
            raise Fault(f"{path.name} is not a .npy file: {str(error).partition(chr(10))[0]:.200}") from None
        if dtype.hasobject:
            raise Fault(f"{path.name} holds Python objects, which are never read")
        if dtype.kind not in "biuf" or dtype.shape:
            raise Fault(f"{path.name} must hold numbers, not {dtype!s:.60}")
        if len(shape) > _MOST_AXES or any(not 0 <= length <= LARGEST_ARRAY for length in shape):
            raise Fault(
                f"{path.name} claims a shape of {list(shape)!s:.100}: at most {_MOST_AXES} axes of "
                f"0 to {LARGEST_ARRAY:,} are read"
            )
        size, there = math.prod(shape), path.stat().st_size - stream.tell()
        if size > LARGEST_ARRAY or size * dtype.itemsize > there:
            raise Fault(
                f"{path.name} claims a shape of {list(shape)} ({size * dtype.itemsize:,} bytes), "
                f"but {there:,} bytes are there and {LARGEST_ARRAY:,} numbers are the limit"
            )
        flat = np.fromfile(stream, dtype, size)
    return flat.reshape(shape, order="F" if fortran else "C")


def _safetensors_names(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as tensors:
            return sorted(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise Fault(f"{path.name} is not a valid .safetensors file: {error}") from None


def _read_safetensors(path: Path, tensor: Any) -> NDArray[Any]:
    from safetensors import safe_open

    names = _safetensors_names(path)
    if tensor is None and len(names) == 1:
        tensor = names[0]
    if tensor not in names:
        got = "none named" if tensor is None else f"got {tensor!r:.60}"
        raise Fault(f"must name a tensor of {path.name}, {got}{suggest(str(tensor), names)}", "tensor")
    with safe_open(path, framework="np") as tensors:
        numbers: str = tensors.get_slice(tensor).get_dtype()
        if numbers in _NUMPY_HAS:
            return tensors.get_tensor(tensor)
    if numbers == "BF16":
        return _read_bfloat16(path, tensor)
    raise Fault(f"the tensor {tensor!r} of {path.name} holds {numbers}; save it as float32", "tensor")


def _read_bfloat16(path: Path, tensor: str) -> NDArray[np.float32]:
    """A tensor of bfloat16, which numpy has not; float32 holds its values exactly. The file has been validated."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        entry = json.loads(stream.read(length))[tensor]
        first, last = entry["data_offsets"]
        stream.seek(8 + length + first)
        upper = np.frombuffer(stream.read(last - first), "<u2")
    return (upper.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def _opened(path: Path, mode: str, **options: Any) -> IO[Any]:
    try:
        return path.open(mode, **options)
    except OSError as error:
        raise Fault(f"{path.name} cannot be read: {error.strerror or error}", "file") from None


def _part(path: Path, array: NDArray[Any], rows: slice | None) -> NDArray[Any]:
    """The rows of an array that a reference asks for; all without `rows`."""
    if rows is None:
        return array
    if not array.ndim:
        raise Fault(f"{path.name} holds a single number, which has no rows", "rows")
    _enough_rows(path, rows, len(array))
    return array[rows]


def _read_columns(path: Path, wanted: Mapping[str, str] | None, rows: slice | None) -> dict[str, Any]:
    read = _read_csv if path.suffix == ".csv" else _read_parquet
    return read(path, wanted, rows or slice(0, None))


def _read_csv(path: Path, wanted: Mapping[str, str] | None, rows: slice) -> dict[str, Any]:
    with _opened(path, "r", newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        try:
            return _csv_columns(path, reader, wanted, rows)
        except csv.Error as error:
            raise Fault(f"{path.name}:{reader.line_num}: is not valid CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise Fault(f"{path.name} is not UTF-8 text ({error.reason})") from None


def _csv_columns(path: Path, reader: Any, wanted: Mapping[str, str] | None, rows: slice) -> dict[str, Any]:
    header = next(reader, [])
    places = _places(path, header, wanted)
    columns: dict[str, list[str]] = {field: [] for field in places}
    lines, seen = list[int](), 0
    for number, row in enumerate(filter(None, reader)):
        if rows.stop is not None and number >= rows.stop:
            break
        seen = number + 1
        if number < rows.start:
            continue
        if len(row) != len(header):
            raise Fault(f"{path.name}:{reader.line_num}: {len(row)} cells under {len(header)} column names")
        lines.append(reader.line_num)
        for field, place in places.items():
            columns[field].append(row[place])
    _enough_rows(path, rows, seen)
    return {field: Cells(cells, path.name, lines) for field, cells in columns.items()}


def _read_parquet(path: Path, wanted: Mapping[str, str] | None, rows: slice) -> dict[str, Any]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise Fault(f"{path.name} needs pyarrow: pip install 'equipoise[parquet]'") from None
    try:
        header = parquet.read_schema(path).names
        names = {field: header[place] for field, place in _places(path, header, wanted).items()}
        table = parquet.read_table(path, columns=sorted(set(names.values())))
    except (ArrowException, OSError):
        raise Fault(f"{path.name} is not a .parquet file that pyarrow can read") from None
    _enough_rows(path, rows, len(table))
    return {field: table[name][rows.start : rows.stop].to_pylist() for field, name in names.items()}


def _places(path: Path, header: Sequence[str], wanted: Mapping[str, str] | None) -> dict[str, int]:
    """Which column of the file each field is read from."""
    for field, name in (wanted or {}).items():
        if header.count(name) != 1:
            raise Fault(f"{path.name} has {header.count(name)} columns named {name!r}{suggest(name, header)}", field)
    if wanted is None:
        if len(set(header)) != len(header):
            raise Fault(f"{path.name} has two columns of one name")
        return {name: place for place, name in enumerate(header)}
    return {field: header.index(name) for field, name in wanted.items()}


def _enough_rows(path: Path, rows: slice, there: int) -> None:
    if rows.stop is not None and there < rows.stop:
        raise Fault(f"asks for rows {rows.start} to {rows.stop}, but {path.name} has {there}", "rows")
