"""The two sides of a task: `Spec`, what is asked, and `Plan`, what comes back; and the kinds that there are.

A kind is a module of this package named after it, with a subclass of each:

    class RolloutBudgets(Spec[RolloutPlan]): ...

Its spec also says what the task means, in plain numpy that no solver uses: `demands` (what a plan must satisfy),
`reports` (what it says of itself), `objective` (what it achieves) and `bound` (what its fields prove). `check` judges
by these alone.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from .certificate import Certificate, Sense, relative_gap
from .errors import EquipoiseError, Place, SpecError, dotted, shown
from .problems import problems
from .sources import Folder, suggest

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import SchemaValidator


@dataclass(frozen=True)
class Broken:
    """A rule that a plan breaks: which, where in the plan, by how much, and what it should be."""

    rule: str
    place: Place
    amount: float
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {dotted(self.place)} {self.message}"


ROUNDING = 1e-12
"""Relative difference between two honest sums of the same numbers, of which the largest counts if they cancel."""


def below(rule: str, field: str, got: NDArray[Any], least: NDArray[Any] | float) -> Iterator[Broken]:
    """A broken rule for every entry of a plan's field that is less than it must be."""
    bad = got < least
    for place in np.argwhere(bad).tolist() if bad.any() else ():
        value, wanted = got[tuple(place)], np.broadcast_to(least, got.shape)[tuple(place)]
        yield Broken(rule, (field, *place), float(wanted - value), f"is {value:.10g}, must be at least {wanted:.10g}")


def above(rule: str, field: str, got: NDArray[Any], most: NDArray[Any] | float) -> Iterator[Broken]:
    """A broken rule for every entry of a plan's field that is more than it may be."""
    bad = got > most
    for place in np.argwhere(bad).tolist() if bad.any() else ():
        value, wanted = got[tuple(place)], np.broadcast_to(most, got.shape)[tuple(place)]
        yield Broken(rule, (field, *place), float(value - wanted), f"is {value:.10g}, must be at most {wanted:.10g}")


def differs(
    rule: str,
    field: str,
    got: NDArray[Any],
    true: NDArray[Any],
    relative: float = 1e-9,
    size: NDArray[Any] | float | None = None,
) -> Iterator[Broken]:
    """A broken rule for every entry of a plan's field that is not what it claims to report.

    size: how large the numbers are that an entry comes from, which may cancel: their rounding is forgiven too. If it
    is not given, they are as large as the largest entry; 0 where nothing cancels.
    """
    room = ROUNDING * (np.abs(true).max(initial=0.0) if size is None else size)
    far = ~(np.abs(got - true) <= relative * np.abs(true) + room)
    for place in np.argwhere(far).tolist():
        value, wanted = got[tuple(place)], true[tuple(place)]
        yield Broken(rule, (field, *place), float(abs(value - wanted)), f"is {value:.10g}, but comes to {wanted:.10g}")


def misshapen(field: str, got: NDArray[Any], shape: tuple[int, ...]) -> Iterator[Broken]:
    """A broken rule where a plan's field does not have the shape that the spec calls for."""
    if got.shape != shape:
        text = " × ".join(map(str, got.shape)), " × ".join(map(str, shape))
        yield Broken("shape", (field,), float(abs(got.size - np.prod(shape))), f"is {text[0]}, must be {text[1]}")


if TYPE_CHECKING:

    class _Base:
        """A pydantic model as type checkers should see it: a field may be given in any of its forms."""

        model_fields: ClassVar[dict[str, FieldInfo]]
        __pydantic_validator__: ClassVar[SchemaValidator]

        def __init__(self, /, **fields: Any) -> None: ...

        def model_copy(self) -> Self: ...

        @classmethod
        def model_construct(cls, _fields_set: set[str] | None = None, /, **fields: Any) -> Self: ...

        @classmethod
        def model_json_schema(cls) -> dict[str, Any]: ...
else:
    _Base = BaseModel


class _Model(_Base):
    """A pydantic model whose constructor raises `SpecError`, in the words of the spec."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        str_strip_whitespace=True,
        ser_json_inf_nan="strings",
        use_attribute_docstrings=True,  # what is said of a field stands in the JSON Schema too
    )

    def __init__(self, /, **fields: Any) -> None:
        self._fill(fields, None)

    def _fill(self, fields: Mapping[str, Any], folder: Folder | None) -> None:
        try:
            self.__pydantic_validator__.validate_python(dict(fields), self_instance=self, context=folder)
        except ValidationError as error:
            raise SpecError(problems(error, type(self))) from None

    @classmethod
    def read(cls, fields: Mapping[str, Any], folder: Folder) -> Self:
        """The model from a document, whose file references start at `folder`. Raises `SpecError`."""
        model = cls.__new__(cls)
        model._fill(fields, folder)
        return model

    def fields(self) -> dict[str, Any]:
        """The fields that are set, as plain values, arrays and nested dictionaries of them."""
        there = self.__dict__
        named = ((shown, there[name]) for name, shown in _shown(type(self)).items())
        return {name: _plain(value) for name, value in named if value is not None}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Model) and type(self) is type(other) and _same(self.fields(), other.fields())

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # arrays do not hash


class Plan(_Model):
    """What `solve` returns: the decision, field by field, and its certificate."""

    kind: str
    name: str | None = None

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """What the axes of each array count, outermost first: fields of the spec where there is one of that length."""

    _certificate: Certificate | None = PrivateAttr(default=None)

    @property
    def certificate(self) -> Certificate:
        """How good the plan is, and why. Raises `EquipoiseError` for a plan that no solver made."""
        if self._certificate is None:
            raise EquipoiseError("this plan has no certificate: it was not made by `solve`")
        return self._certificate

    @property
    def certified(self) -> bool:
        """Whether there is a certificate."""
        return self._certificate is not None

    @classmethod
    def trusted(cls, **fields: Any) -> Self:
        """The plan of fields that are as their types ask, by name, which nobody looks at: for an algorithm that makes
        thousands a second. `solve` still holds them against the demands of the spec."""
        for value in fields.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        return cls.model_construct(**fields)

    def signed(self, certificate: Certificate) -> Self:
        """This very plan under its first certificate; for who made the plan, before anybody else has it."""
        self._certificate = certificate
        return self

    def with_certificate(self, certificate: Certificate) -> Self:
        """The same plan under another certificate."""
        plan = self.model_copy()
        plan._certificate = certificate
        return plan


P = TypeVar("P", bound=Plan, covariant=True)


class Spec(_Model, Generic[P]):
    """What is asked: a task of one kind, validated whole when it is made."""

    kind: str
    """The kind of task."""
    name: str | None = None
    """A name of the user's own, which plans repeat."""

    sense: ClassVar[Sense]
    unit: ClassVar[str] = ""
    """What the objective counts, for people."""
    plan: ClassVar[type[Plan]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in cls.__mro__:
            arguments = getattr(base, "__pydantic_generic_metadata__", {}).get("args", ())
            if arguments and isinstance(arguments[0], type):
                cls.plan = arguments[0]

    def rules(self, plan: P) -> Iterator[Broken]:  # pyright: ignore[reportGeneralTypeIssues]
        """What is wrong with a plan: the demands that it breaks; if it breaks none, what it reports of itself that is
        not so. What a plan that breaks some says of itself has no meaning, and to look into it no limit."""
        broken = False
        for rule in self.demands(plan):
            broken = True
            yield rule
        if not broken:
            yield from self.reports(plan)

    def demands(self, plan: P) -> Iterator[Broken]:  # pyright: ignore[reportGeneralTypeIssues]
        """The rules of the task that a plan breaks; none for a feasible plan. Cheap enough to run in every solve."""
        raise NotImplementedError

    def reports(self, plan: P) -> Iterator[Broken]:  # pyright: ignore[reportGeneralTypeIssues]
        """What a plan says of itself (loads, prices, predictions) and is not so."""
        yield from ()

    def objective(self, plan: P) -> float:  # pyright: ignore[reportGeneralTypeIssues]
        """What a plan achieves."""
        raise NotImplementedError

    def bound(self, plan: P) -> float | None:  # pyright: ignore[reportGeneralTypeIssues]
        """What no plan can beat, as far as this plan's own fields prove it by duality or by counting."""
        raise NotImplementedError

    def rank(self, plan: P) -> float:  # pyright: ignore[reportGeneralTypeIssues]
        """What counts before the objective, the larger the better; the same for all plans of most kinds."""
        return 0.0

    def magnitude(self, plan: P) -> float:  # pyright: ignore[reportGeneralTypeIssues]
        """How large the terms are that objective and bound are sums of, where these may cancel; 0 where they do not."""
        return 0.0

    def measures(self, plan: P) -> dict[str, float]:  # pyright: ignore[reportGeneralTypeIssues]
        """What a person would read off a plan, beside the objective: names with units, and numbers."""
        return {}

    def gap(self, plan: P, objective: float, bound: float) -> float:  # pyright: ignore[reportGeneralTypeIssues]
        """The relative gap between an objective and a bound, in the measure of this kind."""
        return relative_gap(objective, bound)

    def replace(self, **changes: Any) -> Self:
        """The same task with some fields changed, validated as a whole. Raises `SpecError`."""
        return self.replaced(changes, Folder(Path.cwd()))

    def replaced(self, changes: Mapping[str, Any], folder: Folder) -> Self:
        """As `replace`, with file references that start at `folder`."""
        there = self.__dict__
        named = ((shown, there[name]) for name, shown in _shown(type(self)).items())
        kept = {name: value for name, value in named if value is not None}  # a table that is kept is not read again
        return type(self).read({**kept, **changes}, folder)

    def digest(self, listed: bool = False) -> str:
        """SHA-256 of everything in the spec, the same wherever and from whatever source it was read.

        listed: of the spec as it is read back from lists, in which tables without rows have lost their columns.
        """
        state = hashlib.sha256()
        _feed(state, self.fields(), listed)
        return state.hexdigest()


@cache
def _shown(model: type[BaseModel]) -> dict[str, str]:
    """The fields of a model, and what they are called in documents."""
    return {name: field.alias or name for name, field in model.model_fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        nested = ((name, value.__dict__[name]) for name in _shown(type(value)))
        return {name: _plain(entry) for name, entry in nested if entry is not None}
    return value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, np.ndarray):
        if not isinstance(other, np.ndarray) or one.dtype != other.dtype:
            return False
        if len(one) or len(other):
            return np.array_equal(one, other)
        return one.shape == other.shape or "empty" in (_shape(one), _shape(other))  # a list of no rows has no columns
    return type(one) is type(other) and one == other


def _shape(array: NDArray[Any], listed: bool = False) -> str:
    """The shape of an array, that of all empty lists being one; `listed`: as lists tell it."""
    nothing = not len(array) and (listed or not any(array.shape))
    return "empty" if nothing else str(array.shape)


@lru_cache(1024)
def _written(name: str) -> bytes:
    return json.dumps(name).encode()


def _feed(state: Any, value: Any, listed: bool) -> None:
    if isinstance(value, dict):
        for name in sorted(value):
            state.update(_written(name))
            _feed(state, value[name], listed)
        state.update(b"}")
    elif isinstance(value, np.ndarray):
        array: NDArray[Any] = np.ascontiguousarray(value)
        if array.dtype.str[0] == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        state.update(f"{array.dtype.str}{_shape(array, listed)}".encode())
        state.update(array.tobytes() if not array.size else array.data)
    else:
        state.update(json.dumps(value).encode())


@cache
def kinds() -> dict[str, type[Spec[Any]]]:
    """Every kind of task, by name: the modules of this package that define a spec of that name."""
    folder = Path(__file__).parent
    found = (_kind(path.stem) for path in sorted(folder.glob("*.py")) if path.stem != "__init__")
    return {spec.model_fields["kind"].default: spec for spec in found if spec is not None}


def kind(name: str) -> type[Spec[Any]]:
    """The spec class of a kind. Raises `SpecError` where there is none of that name."""
    try:
        return kinds()[name]
    except KeyError:
        raise SpecError(f"kind: {shown(name)} is not a kind of task{suggest(name, list(kinds()))}") from None


def _kind(name: str) -> type[Spec[Any]] | None:
    module = importlib.import_module(f".{name}", __package__)
    for value in vars(module).values():
        own = isinstance(value, type) and issubclass(value, Spec) and value.__module__ == module.__name__
        if own and "kind" in value.model_fields and value.model_fields["kind"].default == name:
            return value
    return None
