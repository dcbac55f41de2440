"""What the points of each sweep came to, gathered from the results and the failures of a batch."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...specs.errors import SpecError, shown
from ...specs.sweeps import Scalar, unfit
from .beside import FAILURES

Document = Mapping[str, Any]
Result = bytes | str | Document

_COLUMNS = ("file", "line", "sweep", "kind", "name", "objective", "bound", "gap")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one point came to: the objective and the bound of its plan, or why there is none.

    bound, gap: None where nothing is known. failure: the class of the error, None where there is a plan.
    """

    point: Mapping[str, Scalar]
    objective: float = math.nan
    bound: float | None = None
    gap: float | None = None
    failure: str | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no plan."""
        return self.failure is not None


@dataclass(slots=True)
class Swept:
    """A sweep and what its points came to. kind, name: of the spec, where they are known."""

    file: str
    line: int | None
    kind: str | None = None
    name: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def solved(self) -> list[Outcome]:
        """The points that have a plan."""
        return [outcome for outcome in self.outcomes if outcome.failure is None]

    @property
    def failures(self) -> Counter[str]:
        """How many points have none, by class of the error."""
        return Counter(outcome.failure for outcome in self.outcomes if outcome.failure is not None)

    def fields(self) -> dict[str, list[Scalar]]:
        """The swept fields and the values that each took: numbers by size, then words, by name."""
        names = dict.fromkeys(name for outcome in self.outcomes for name in outcome.point)
        return {name: _values(outcome.point.get(name) for outcome in self.outcomes) for name in names}


def is_number(value: Scalar) -> bool:
    """Whether a value of a swept field has a place on an axis of numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def gather(results: Path | Iterable[Result]) -> list[Swept]:
    """The sweeps among the results of a batch, by file and line.

    results: the file of a batch, whose failures are read from beside it; or its lines, failures among them, as text or
    as documents. Raises `SpecError` for a file that cannot be read, or holds something else.
    """
    documents = _of_file(results) if isinstance(results, Path) else map(_parsed, results)
    sweeps = dict[tuple[str, int], Swept]()
    points = dict[tuple[str, int], dict[str, Outcome]]()
    for document in documents:
        point = document.get("sweep")
        if not isinstance(point, Mapping):
            continue
        file, line = document.get("file"), document.get("line")
        if not isinstance(file, str) or not (line is None or isinstance(line, int)) or not point:
            raise SpecError(f"a result of a sweep names its file and its point, got {shown(file)} and {shown(point)}")
        wrong = next((value for value in point.values() if unfit(value)), None)
        if wrong is not None:
            raise SpecError(f"a swept field of {file} is {shown(wrong)}: it {unfit(wrong)}")
        swept = sweeps.setdefault((file, line or 0), Swept(file, line))
        swept.kind, swept.name = swept.kind or _word(document, "kind"), swept.name or _word(document, "name")
        # The last that was written about a point counts, as in the file itself.
        points.setdefault((file, line or 0), {})[json.dumps(list(point.items()))] = _outcome(point, document)
    for place, swept in sweeps.items():
        swept.outcomes = list(points[place].values())
    return [sweeps[place] for place in sorted(sweeps)]


def _outcome(point: Mapping[str, Scalar], document: Document) -> Outcome:
    if "type" in document:
        return Outcome(point, failure=str(document["type"]))
    figures = document.get("certificate", document)
    objective, bound, gap = (_finite(figures, name) for name in ("objective", "bound", "gap"))
    if objective is None:
        return Outcome(point, failure="no finite objective")
    return Outcome(point, objective, bound, gap)


def _word(document: Document, field: str) -> str | None:
    word = document.get(field)
    return word if isinstance(word, str) else None


def _finite(figures: Any, name: str) -> float | None:
    value = figures.get(name) if isinstance(figures, Mapping) else None
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]  # "inf" travels as a word
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _values(values: Iterable[Scalar]) -> list[Scalar]:
    different = {json.dumps(value): value for value in values}.values()
    numbers = sorted((value for value in different if is_number(value)), key=lambda value: float(value or 0))
    return [*numbers, *sorted((value for value in different if not is_number(value)), key=str)]


def _of_file(path: Path) -> Iterator[Document]:
    try:
        yield from _rows(path) if path.suffix.lower() == ".parquet" else _lines(path)
        failures = Path(f"{path}{FAILURES}")
        if failures.exists():
            yield from _lines(failures)
    except OSError as error:
        raise SpecError(f"{error.filename or path}: {error.strerror or error}") from None


def _lines(path: Path) -> Iterator[Document]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if b'"sweep"' in line:
                try:
                    yield _parsed(line)
                except SpecError as error:
                    raise SpecError(f"{path}:{number}: {error}") from None


def _parsed(result: Result) -> Document:
    if isinstance(result, Mapping):
        return result
    try:
        document = json.loads(result)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SpecError("is not a result of a batch, which is a JSON object on one line")
    return document


def _rows(path: Path) -> Iterator[Document]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=list(_COLUMNS)):
                for row in batch.to_pylist():
                    if row.get("sweep"):
                        yield {**row, "sweep": json.loads(row["sweep"])}
    except (ArrowException, ValueError) as error:
        raise SpecError(f"{path}: is not a table of results: {error}") from None
