"""Parsed documents that can tell on which line of which file a value stands: YAML, JSON, a line of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from .errors import Place, Problem, SpecError, dotted, shown

LARGEST_YAML = 250_000
"""Values in one YAML document, aliases counted as often as they are used."""


class Document:
    """A parsed YAML or JSON text that can tell on which line a value stands."""

    def __init__(self, text: str, source: str, finite: bool = False) -> None:
        """`finite`: refuse the constants NaN and Infinity, which are no JSON though Python reads them."""
        self.source = source
        self._finite = finite
        self._text = text
        self._root: Node | None = None
        self.value: Any = self._json() if text.lstrip()[:1] in ("{", "[") else self._other()

    def _json(self) -> Any:
        def constant(name: str) -> float:
            return refuse_constant(name, self.source) if self._finite else float(name)

        # YAML's flow style also starts with a brace; what JSON cannot read is left to YAML, which can.
        try:
            return json.loads(self._text, object_pairs_hook=_no_duplicates, parse_constant=constant)
        except _Twice as error:
            if self._is_json():
                raise SpecError(f"{self.source}: {error}") from None
        except (ValueError, RecursionError):
            pass
        return self._other()

    def _is_json(self) -> bool:
        try:
            json.loads(self._text)
        except (ValueError, RecursionError):
            return False
        return True

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
        if _would_take_minutes(self._text):
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

    def locate(self, error: SpecError, swept: Sequence[str] = ()) -> SpecError:
        """The same error, each problem with file and line. The values of `swept` fields stand in the sweep."""
        lines = [self._line(_written(problem.place, swept)) for problem in error.problems]
        return SpecError(
            problem.located(self.source, line) for problem, line in zip(error.problems, lines, strict=True)
        )

    def _line(self, place: Place) -> int | None:
        if self._root is None:
            if _would_take_minutes(self._text):
                return None
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


class Line:
    """A parsed line of JSON lines, or a row of a table written as JSON, which is strict JSON and stands on one line."""

    def __init__(self, text: str, source: str, line: int) -> None:
        self._place = source, line
        try:
            self.value: Any = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            raise self._problem(f"not valid JSON: {error.msg} (column {error.pos + 1})") from None
        except (_Twice, ValueError) as error:
            raise self._problem(f"not valid JSON: {error}") from None
        except RecursionError:
            raise self._problem("is nested too deeply") from None

    def _problem(self, message: str) -> SpecError:
        return SpecError([Problem(message, (), *self._place)])

    def locate(self, error: SpecError, swept: Sequence[str] = ()) -> SpecError:
        """The same error, each problem with file and line."""
        return SpecError(problem.located(*self._place) for problem in error.problems)


def refuse_constant(name: str, source: str) -> float:
    """Raises `SpecError` for a constant that JSON does not have."""
    raise SpecError(f"{source}: not valid JSON: {name} is no number; a finite number, or the string 'inf', is wanted")


class _Twice(Exception):
    """A field of a JSON object is given twice."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _Twice(f"{shown(twice)} is given twice")
    return fields


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number; a finite number, or the string 'inf', is wanted")


def _written(place: Place, swept: Sequence[str]) -> Place:
    """Where the value of a place is written in a document with a sweep."""
    around = {dotted(place[:steps]) for steps in range(1, len(place) + 1)}
    return next((("sweep", name) for name in swept if name in around), place)


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


def _would_take_minutes(text: str) -> bool:
    """Whether a text holds more values than YAML may, by what stands before, between or behind them."""
    return any(text.count(mark) > LARGEST_YAML for mark in (",", "- ", "-\n", ": ", ":\n"))


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
