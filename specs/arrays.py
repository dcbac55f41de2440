"""Arrays in a spec: read once at the edge, so that all code behind it sees plain, checked numpy arrays.

An array may be an inline list, a numpy array, a torch tensor (both read without a copy where dtype and
layout allow) or a reference to a file (`sources.py`). An `ArrayRule` states what its numbers must be; the
first that is not is named with its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from .errors import Fault, shown
from .scalars import LARGEST_INTEGER
from .sources import FILE_SCHEMA, LARGEST_ARRAY, Cells, Folder, is_reference, read_array

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]

REFERENCE_SCHEMA: JsonSchemaValue = {
    "type": "object",
    "title": "File reference",
    "description": "Numbers kept in a file beside the spec: .npy, .safetensors, .csv or .parquet.",
    "properties": {
        **FILE_SCHEMA,
        "tensor": {"type": "string", "description": "Name of the tensor in a .safetensors file."},
        "column": {"type": "string", "description": "Column of a .csv or .parquet file."},
    },
    "required": ["file"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class ArrayRule:
    """What the numbers of an array must be.

    least, most: inclusive bounds. above: exclusive lower bound. dimensions: allowed numbers of axes.
    minus_infinity: −inf is allowed besides, and marks pairs that are forbidden. flags: true or false (1 or 0) instead
    of numbers.
    """

    whole: bool = False
    least: float | None = None
    most: float | None = None
    above: float | None = None
    dimensions: tuple[int, ...] = (1,)
    minus_infinity: bool = False
    flags: bool = False

    def read(self, value: Any, folder: Folder | None) -> NDArray[Any]:
        """The checked, read-only array that a spec's value stands for; files are sought in the working directory if no
        folder is given. Raises `Fault`."""
        array = _numeric(value, folder, self.flags)
        if array.size == 0 and array.ndim not in self.dimensions:
            array = array.reshape((0,) * self.dimensions[0])
        if array.ndim not in self.dimensions:
            wanted = " or ".join(_AXES[count] for count in self.dimensions)
            raise Fault(f"must be {wanted} of numbers, got the shape {list(array.shape)}")
        checked = self._flags(array) if self.flags else self._whole(array) if self.whole else self._real(array)
        if checked.base is None and checked is not value:
            checked.flags.writeable = False
            return checked
        view = checked.view()  # the caller's own array stays writeable
        view.flags.writeable = False
        return view

    def _flags(self, array: NDArray[Any]) -> NDArray[np.bool_]:
        _refuse(array, (array != 0) & (array != 1), "must be true or false")
        return np.ascontiguousarray(array, dtype=np.bool_)

    def _whole(self, array: NDArray[Any]) -> NDArray[np.int64]:
        if array.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                _refuse(
                    array,
                    ~(np.floor(array) == array) | (np.abs(array) > LARGEST_INTEGER),
                    "must be a whole number",
                )
        elif array.dtype.kind == "u":
            _refuse(array, array > LARGEST_INTEGER, f"must be at most {LARGEST_INTEGER}")
        whole = np.ascontiguousarray(array, dtype=np.int64)
        if whole.size and not self._within(*_extremes(whole)):
            self._bounded(whole)
        return whole

    def _real(self, array: NDArray[Any]) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):  # a wider float that does not fit becomes inf, and is refused
            real = np.ascontiguousarray(array, dtype=np.float64)
        if real.size and not self._within(*_extremes(real)):
            bad = ~np.isfinite(real)
            if self.minus_infinity:
                bad &= ~np.isneginf(real)
            _refuse(real, bad, "must be finite or -inf" if self.minus_infinity else "must be a finite number")
            self._bounded(real)
        return real

    def _within(self, low: float, high: float) -> bool:
        """Whether numbers between these two are all as they must be, for certain; false for nan."""
        return (
            -math.inf < low
            and high < math.inf
            and (self.above is None or low > self.above)
            and (self.least is None or low >= self.least)
            and (self._highest is None or high <= self._highest)
        )

    @property
    def _highest(self) -> float | None:
        return LARGEST_INTEGER if self.whole and self.most is None else self.most

    def _bounded(self, array: NDArray[Any]) -> None:
        if self.above is not None:
            _refuse(array, array <= self.above, f"must be above {_short(self.above)}")
        if self.least is not None:
            low = array < self.least
            if self.minus_infinity:
                low &= array > -np.inf
            _refuse(array, low, f"must be at least {_short(self.least)}{self._exception}")
        if self._highest is not None:
            _refuse(array, array > self._highest, f"must be at most {_short(self._highest)}")

    @property
    def _exception(self) -> str:
        return " (-inf forbids a pair)" if self.minus_infinity else ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, info: core_schema.ValidationInfo) -> NDArray[Any]:
            return self.read(value, info.context if isinstance(info.context, Folder) else None)

        return core_schema.with_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(plain_list)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        number: JsonSchemaValue = {"type": "integer" if self.whole else "number"}
        if self.flags:
            number = {"enum": [True, False, 1, 0]}
        for key, bound in (("minimum", self.least), ("maximum", self.most), ("exclusiveMinimum", self.above)):
            if bound is not None:
                number[key] = bound
        if self.minus_infinity:
            number = {"anyOf": [number, {"const": "-inf"}]}
        inline = []
        for count in self.dimensions:
            nested = number
            for _ in range(count):
                nested = {"type": "array", "items": nested}
            inline.append(nested)
        return {"anyOf": [*inline, REFERENCE_SCHEMA]}


def plain_list(array: NDArray[Any]) -> list[Any]:
    """An array as nested lists that JSON can carry; −inf, which it cannot, becomes the string "-inf"."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return np.where(np.isneginf(array), "-inf", array.astype(object)).tolist()
    return array.tolist()


_LARGEST_BITS = 1023
"""Bits of an integer that float64 surely holds, if rounded."""
_AXES = {1: "a list", 2: "a table (a list of lists)"}


def _numeric(value: Any, folder: Folder | None, flags: bool = False) -> NDArray[Any]:
    """Any accepted form of an array as a numpy array of integers or floats, not yet checked further."""
    if isinstance(value, np.ndarray):
        pass
    elif is_reference(value):
        value = read_array(value, Folder(Path.cwd()) if folder is None else folder)
    elif type(value).__module__.partition(".")[0] == "torch":
        value = _from_torch(value)
    if not isinstance(value, np.ndarray):
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise Fault(f"must be a list of numbers, an array or a file reference, got {shown(value)}")
        value = _from_list(value, flags)
    if value.size > LARGEST_ARRAY:
        raise Fault(f"has {value.size:,} numbers, and {LARGEST_ARRAY:,} are the limit")
    if value.dtype.kind not in ("iufb" if flags else "iuf"):
        first = f", got {value.flat[0].item()!r:.60}" if value.size else ""
        raise Fault(f"must hold numbers, not {value.dtype}{first}")
    return value


def _from_torch(tensor: Any) -> NDArray[Any]:
    try:
        tensor = tensor.detach().cpu()
        # numpy has no bfloat16, whose values float32 holds exactly.
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (AttributeError, RuntimeError, TypeError):  # no tensor, one without data, or numbers that numpy has not
        raise Fault(f"must be a dense tensor of numbers, got {shown(tensor)}") from None


def _from_list(value: Sequence[Any], flags: bool = False) -> NDArray[Any]:
    """Nested lists of numbers, each entry looked at: numpy would take `true` for 1 and "7" for a string."""
    if isinstance(value, Cells):
        value = [_cell(text, row, value) for row, text in enumerate(value)]
    place, level = (), value
    while len(level) and isinstance(level[0], (list, tuple)) and len(place) < 2:  # a list may hold itself
        place, level = (*place, 0), level[0]
    rows: Sequence[Any] = value if place else (value,)
    width, converted = len(level), list[list[Any]]()
    if len(place) > 1:
        raise Fault("must be a list or a table of numbers, got lists of lists of lists")
    for number, row in enumerate(rows):
        here = (number,) if place else ()
        if not isinstance(row, (list, tuple)) and place:
            raise Fault(f"must be a list of {width} numbers, got {shown(row)}", *here)
        if len(row) != width:
            raise Fault(f"has {len(row)} entries, the rows before it have {width}", *here)
        converted.append([_entry(entry, (*here, column), flags) for column, entry in enumerate(row)])
    flat = np.asarray(converted)
    if flat.dtype.kind == "O":  # an integer beyond 64 bits, which `_entry` has seen to fit a float
        flat = flat.astype(np.float64)
    return flat if place else flat.reshape(-1)


def _entry(entry: Any, place: tuple[int, ...], flags: bool = False) -> int | float:
    if type(entry) is float or (type(entry) is int and entry.bit_length() <= _LARGEST_BITS):
        return entry
    if type(entry) is int:
        bound = f"at least -{LARGEST_INTEGER}" if entry < 0 else f"at most {LARGEST_INTEGER}"
        digits = int(entry.bit_length() * math.log10(2)) + 1
        raise Fault(f"must be {bound}, got an integer of about {digits} digits", *place)
    if isinstance(entry, np.generic) and entry.dtype.kind in "iuf":
        return entry.item()
    if entry == "-inf" or entry == "inf":
        return float(entry)
    if flags and isinstance(entry, (bool, np.bool_)):
        return bool(entry)
    raise Fault(f"must be {'true or false' if flags else 'a number'}, got {shown(entry)}", *place)


def _cell(text: str, row: int, column: Cells) -> int | float:
    # Python also reads `1_0` and the digits of other scripts.
    for convert in (int, float) if text.isascii() and "_" not in text else ():
        try:
            return convert(text)
        except ValueError:
            continue
    raise Fault(f"must be a number, got {text!r:.60} in {column.place(row)}", row)


def _refuse(array: NDArray[Any], bad: NDArray[np.bool_], message: str) -> None:
    if bad.any():
        place = np.unravel_index(int(np.argmax(bad)), array.shape)
        raise Fault(f"{message}, got {_short(array[place].item())}", *(int(index) for index in place))


BLOCK = 65_536
"""Numbers that stay in a processor's cache between two looks at them."""


def _extremes(array: NDArray[np.float64] | NDArray[np.int64]) -> tuple[float, float]:
    """The least and the largest number, integers as such; nan if any is. Memory is read once."""
    if array.size > BLOCK:
        flat = array.reshape(-1)
        blocks = [flat[start : start + BLOCK] for start in range(0, len(flat), BLOCK)]
        both = [(np.minimum.reduce(block), np.maximum.reduce(block)) for block in blocks]
        low, high = np.array(both).T
        return np.minimum.reduce(low).item(), np.maximum.reduce(high).item()
    return array.item(array.argmin()), array.item(array.argmax())  # on small arrays several times as fast as `min`


def _short(number: float) -> str:
    return f"{number:.10g}" if isinstance(number, float) else str(number)


def axis_error(name: str, got: int, axis: str, want: int) -> Fault:
    """The fault of an array whose length does not match the table that it goes with."""
    return Fault(f"{{{name}}} has {got} entries, but there are {want} {axis}", name)


Reals = Annotated[Floats, ArrayRule()]
"""Finite numbers."""
Amounts = Annotated[Floats, ArrayRule(least=0)]
"""Finite numbers, at least 0."""
PositiveAmounts = Annotated[Floats, ArrayRule(above=0)]
"""Finite numbers above 0."""
Rates = Annotated[Floats, ArrayRule(least=0, most=1)]
"""Probabilities, between 0 and 1."""
Counts = Annotated[Integers, ArrayRule(whole=True, least=0)]
"""Whole numbers, at least 0."""
PositiveCounts = Annotated[Integers, ArrayRule(whole=True, least=1)]
"""Whole numbers, at least 1."""
Indices = Annotated[Integers, ArrayRule(whole=True, least=-1)]
"""Positions in another table; −1 stands for none."""
Flags = Annotated[NDArray[np.bool_], ArrayRule(flags=True)]
"""True or false, one per entry; 1 and 0 are read as such."""
