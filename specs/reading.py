"""Specs from files: YAML or JSON in, a checked spec out, with every problem told by file and line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .documents import Document, Line
from .errors import Problem, SpecError, shown
from .sources import Folder
from .spec import Spec, kind, kinds
from .sweeps import Point, Scalar, at, points

LARGEST_DOCUMENT = 64 * 2**20
"""Bytes of one document. Larger data belongs in array files beside it."""


def load(path: str | os.PathLike[str]) -> Spec[Any]:
    """The spec in a .yaml or .json file, as its own class.

    Raises `SpecError`, which names the file, the line, the field, what it got and what it wants.
    """
    file = as_path(path, "load")
    return parse(read_text(file), str(path), file.parent)


def parse(text: str, source: str, folder: Path | None) -> Spec[Any]:
    """The spec in a text. `source` names it in errors; file references start at `folder`, if any is given."""
    document = Document(text, source)
    try:
        return read_spec(document.value, Folder(folder))
    except SpecError as error:
        raise document.locate(error) from None


def read_spec(document: Any, folder: Folder) -> Spec[Any]:
    """The spec in a parsed document. Raises `SpecError` without lines."""
    if not isinstance(document, Mapping):
        raise SpecError(f"a spec is a set of named fields, got {shown(document)}")
    if "plan" in document and "kind" not in document:
        raise SpecError("is a saved plan, not a spec: read it with eq.load_plan")
    if "sweep" in document:
        raise SpecError(
            [Problem("stands for a spec per point, not for one spec: `equipoise batch` solves it", ("sweep",))]
        )
    name = document.get("kind")
    if not isinstance(name, str):
        listed = ", ".join(kinds())
        got = "it is missing" if name is None else f"got {shown(name)}"
        raise SpecError([Problem(f"must name one of the kinds of task ({listed}); {got}", ("kind",))])
    try:
        cls = kind(name)
    except SpecError as error:
        raise SpecError([Problem(str(error).removeprefix("kind: "), ("kind",))]) from None
    for key in document:
        if not isinstance(key, str):
            raise SpecError(f"field names must be strings, got {shown(key)}")
    return cls.read(document, folder)


def as_path(path: Any, function: str) -> Path:
    """The path that a function was given. Raises `SpecError` for anything else."""
    try:
        return Path(path)
    except TypeError:
        raise SpecError(f"{function} takes a path, got {type(path).__name__}") from None


def read_text(path: Path) -> str:
    """The text of a file, if it is one of a sensible size. Raises `SpecError`."""
    try:
        if path.stat().st_size > LARGEST_DOCUMENT:
            raise SpecError(
                f"{path}: is larger than {LARGEST_DOCUMENT >> 20} MiB; keep arrays in .npy, .safetensors or .csv files"
            )
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from None
    except ValueError:  # a NUL or a lone surrogate
        raise SpecError(f"{str(path)!r:.100}: is not a path that this system allows") from None


class TaskDocument:
    """A parsed document of a batch, whose kind and name are known even where it is no valid spec."""

    def __init__(self, text: str, source: str, line: int | None = None) -> None:
        """`line`: of a file of JSON lines, or the row of a table; None for a document that is a file of its own, in
        YAML or JSON. Raises `SpecError`, as all that is said of the document, with file and line."""
        self._document = Document(text, source) if line is None else Line(text, source, line)
        self._fields = self._document.value if isinstance(self._document.value, Mapping) else {}

    @property
    def kind(self) -> str | None:
        """The kind of task, if the document says one."""
        return self._word("kind")

    @property
    def name(self) -> str | None:
        """The name of the spec, if the document gives one."""
        return self._word("name")

    def _word(self, field: str) -> str | None:
        word = self._fields.get(field)
        return word.strip() if isinstance(word, str) else None

    def points(self) -> Iterator[Point] | None:
        """The points of its sweep; None where the document has none. Raises `SpecError` for a sweep that is broken."""
        try:
            return points(self._fields) if "sweep" in self._fields else None
        except SpecError as error:
            raise self._document.locate(error) from None

    def spec(self, folder: Path | None, point: Mapping[str, Scalar] | None = None) -> Spec[Any]:
        """The spec, or that of one point of its sweep. File references start at `folder`, if any is given.

        Raises `SpecError`. A document may be asked for any number of points; it is parsed once.
        """
        try:
            return read_spec(self._document.value if point is None else at(self._fields, point), Folder(folder))
        except SpecError as error:
            raise self._document.locate(error, tuple(point or ())) from None
