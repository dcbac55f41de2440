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
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Folder:
    """Where the relative paths of a spec start, and whether it may read files at all.

    A spec that came over a network must not read this machine's disk: `Folder(None)` refuses every reference.
    """

    path: Path | None


class Cells(list[str]):
    """A column of a CSV file as text: numbers where a field wants numbers, names where it wants names."""


def suggest(word: str, choices: Sequence[str]) -> str:
    """`; did you mean 'trials'?`, or the choices where none is close."""
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(repr(choice) for choice in choices)}" if choices else ""


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
    rows = _rows(reference)
    return array if rows is None else array[rows]


def read_table(reference: Mapping[str, Any], folder: Folder, fields: Sequence[str]) -> dict[str, Any]:
    """The columns of a table file, by field. Raises `Fault`.

    Without `columns`, every column of the file must be named like a field.
    """
    path = _path(reference, folder, {"file", "columns", "rows"})
    wanted = reference.get("columns")
    if wanted is not None and not (
        isinstance(wanted, Mapping) and all(isinstance(name, str) for name in wanted.values())
    ):
        raise Fault(f"must map fields to the file's columns, got {wanted!r}", "columns")
    match path.suffix:
        case ".csv" | ".parquet":
            return _read_columns(path, wanted, _rows(reference))
        case ".safetensors":
            names = wanted or {field: field for field in _safetensors_names(path) if field in fields}
            rows = _rows(reference) or slice(None)
            return {field: _read_safetensors(path, name)[rows] for field, name in names.items()}
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
        raise Fault(f"must be a path, got {name!r}", "file")
    if folder.path is None:
        raise Fault(f"refers to the file {name!r}, and files are not read for a remote caller: send the numbers")
    path = folder.path / name
    if not path.is_file():
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
        case [int(first), int(last)] if 0 <= first <= last:
            return slice(first, last)
        case _:
            raise Fault(f"must be [first, last) with 0 ≤ first ≤ last, got {rows!r}", "rows")


def _read_npy(path: Path) -> NDArray[Any]:
    with path.open("rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(stream)
        except ValueError as error:
            raise Fault(f"{path.name} is not a .npy file: {error}") from None
        if dtype.hasobject:
            raise Fault(f"{path.name} holds Python objects, which are never read")
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
    except SafetensorError as error:
        raise Fault(f"{path.name} is not a valid .safetensors file: {error}") from None


def _read_safetensors(path: Path, tensor: Any) -> NDArray[Any]:
    from safetensors import safe_open

    names = _safetensors_names(path)
    if tensor is None and len(names) == 1:
        tensor = names[0]
    if tensor not in names:
        got = "none named" if tensor is None else f"got {tensor!r}"
        raise Fault(f"must name a tensor of {path.name}, {got}{suggest(str(tensor), names)}", "tensor")
    with safe_open(path, framework="np") as tensors:
        return tensors.get_tensor(tensor)


def _read_columns(path: Path, wanted: Mapping[str, str] | None, rows: slice | None) -> dict[str, Any]:
    read = _read_csv if path.suffix == ".csv" else _read_parquet
    return read(path, wanted, rows or slice(0, None))


def _read_csv(path: Path, wanted: Mapping[str, str] | None, rows: slice) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        places = _places(path, header, wanted)
        columns: dict[str, list[str]] = {field: [] for field in places}
        for number, row in enumerate(filter(None, reader)):
            if number < rows.start:
                continue
            if rows.stop is not None and number >= rows.stop:
                break
            if len(row) != len(header):
                raise Fault(f"{path.name}:{reader.line_num}: {len(row)} cells under {len(header)} column names")
            for field, place in places.items():
                columns[field].append(row[place])
    _enough_rows(path, rows, len(next(iter(columns.values()), [])))
    return {field: Cells(cells) for field, cells in columns.items()}


def _read_parquet(path: Path, wanted: Mapping[str, str] | None, rows: slice) -> dict[str, Any]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise Fault(f"{path.name} needs pyarrow: pip install 'equipoise[parquet]'") from None
    header = parquet.read_schema(path).names
    names = {field: header[place] for field, place in _places(path, header, wanted).items()}
    table = parquet.read_table(path, columns=sorted(set(names.values())))
    _enough_rows(path, rows, len(table[rows.start : rows.stop]))
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


def _enough_rows(path: Path, rows: slice, read: int) -> None:
    if rows.stop is not None and read < rows.stop - rows.start:
        raise Fault(f"asks for rows {rows.start} to {rows.stop}, but {path.name} has {rows.start + read}", "rows")
