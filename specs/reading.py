"""Specs from files: YAML or JSON in, a checked spec out, with every problem told by file and line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from .errors import Place, Problem, SpecError, shown
from .sources import Folder
from .spec import Spec, kind, kinds

LARGEST_DOCUMENT = 64 * 2**20
"""Bytes of one document. Larger data belongs in array files beside it."""
LARGEST_YAML = 250_000
"""Values in one YAML document, aliases counted as often as they are used."""


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


def refuse_constant(name: str, source: str) -> float:
    """Raises `SpecError` for a constant that JSON does not have."""
    raise SpecError(f"{source}: not valid JSON: {name} is no number; a finite number, or the string 'inf', is wanted")


class Document:
    """A parsed YAML or JSON text that can tell on which line a value stands."""

    def __init__(self, text: str, source: str, finite: bool = False) -> None:
        """`finite`: refuse the constants NaN and Infinity, which are no JSON though Python reads them."""
        self.source = source
        self._finite = finite
        self._text = text
        self._root: Node | None = None
        self.value: Any = self._json() if text.lstrip()[:1] in ("{", "[") and self._is_json() else self._other()

    def _is_json(self) -> bool:
        # YAML's flow style also starts with a brace; what JSON cannot read is left to YAML, which can.
        try:
            json.loads(self._text)
        except (ValueError, RecursionError):
            return False
        return True

    def _json(self) -> Any:
        def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            fields = dict(pairs)
            if len(fields) < len(pairs):
                seen = set[str]()
                twice = next(name for name, _ in pairs if name in seen or seen.add(name))
                raise SpecError(f"{self.source}: {shown(twice)} is given twice")
            return fields

        def constant(name: str) -> float:
            return refuse_constant(name, self.source) if self._finite else float(name)

        return json.loads(self._text, object_pairs_hook=no_duplicates, parse_constant=constant)

    def _other(self) -> Any:
        try:
            return self._yaml()
        except SpecError:
            if self.source.endswith(".json") and self._text.strip():
                self._explain_json()
            raise

    def _explain_json(self) -> None:
        try:
            json.loads(self._text)
        except json.JSONDecodeError as error:
            message = f"not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
            raise SpecError([Problem(message, (), self.source, error.lineno)]) from None
        except (ValueError, RecursionError):
            return

    def _yaml(self) -> Any:
        if self._text.count(",") > LARGEST_YAML:  # parsing alone would take minutes
            raise _too_long(self.source)
        yaml = YAML(typ="safe", pure=True)
        try:
            self._root = yaml.compose(self._text)
            if self._root is None:
                raise SpecError(f"{self.source}: is empty")
            _refuse_bomb(self._root, self.source)
            return yaml.constructor.construct_document(self._root)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = None if mark is None else mark.line + 1
            raise SpecError(
                [Problem(f"not valid YAML: {error.problem or error.context}", (), self.source, line)]
            ) from None
        except (YAMLError, ValueError) as error:
            raise SpecError(f"{self.source}: not valid YAML: {error}") from None
        except RecursionError:
            raise SpecError(f"{self.source}: is nested too deeply") from None

    def locate(self, error: SpecError) -> SpecError:
        """The same error, each problem with file and line."""
        return SpecError(problem.located(self.source, self._line(problem.place)) for problem in error.problems)

    def _line(self, place: Place) -> int | None:
        if self._root is None:
            try:
                self._root = YAML(typ="safe", pure=True).compose(self._text)  # JSON is YAML, and YAML knows its lines
            except (YAMLError, RecursionError):
                return None
        node = self._root
        while place and node is not None:
            below, place = _below(node, place)
            if below is None:
                break
            node = below
        return None if node is None else node.start_mark.line + 1


def _below(node: Node, place: Place) -> tuple[Node | None, Place]:
    """The node one step further down a place, and the rest of the place.

    Where a table is written as rows, `column, row` in the place is `row, column` in the document.
    """
    step, rest = place[0], place[1:]
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.value == str(step):
                return value, rest
    if isinstance(node, SequenceNode):
        if isinstance(step, int) and step < len(node.value):
            return node.value[step], rest
        if rest and isinstance(rest[0], int) and rest[0] < len(node.value):
            return node.value[rest[0]], (step, *rest[1:])
    return None, ()


def _refuse_bomb(root: Node, source: str) -> None:
    """Refuses documents whose aliases unfold, or whose inline lists run, into more values than can be wanted."""
    sizes: dict[int, int] = {}

    def unfolded(node: Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = LARGEST_YAML  # an alias to a node around itself never ends
            children = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
            below = () if isinstance(node, ScalarNode) else children
            sizes[id(node)] = min(1 + sum(map(unfolded, below)), LARGEST_YAML + 1)
        return sizes[id(node)]

    if unfolded(root) > LARGEST_YAML:
        raise _too_long(source)


def _too_long(source: str) -> SpecError:
    return SpecError(
        f"{source}: holds more than {LARGEST_YAML:,} values (aliases unfolded); "
        "keep long lists in .npy, .csv or .safetensors files and refer to them, as in {file: scores.npy}"
    )
