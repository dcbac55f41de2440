"""Specs, plans and certificates to messages of the protocol and back.

What is large, the arrays, is written straight into the bytes that go out, with one copy: a protobuf message would
copy each array into itself first. The layout is protobuf's own wire format (fields that carry a length), so that any
client reads it with its generated code.

Everything that comes in is hostile: sizes are held against the limits, and a shape against the bytes that are there,
before memory is taken. Errors are `SpecError`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...solvers.control import Options
from ...specs.certificate import Certificate
from ...specs.errors import Place, Problem, SpecError, UnsupportedError
from ...specs.reading import read_spec
from ...specs.saving import attach, detach
from ...specs.sources import LARGEST_ARRAY, Folder
from ...specs.spec import Plan, Spec, kind
from . import equipoise_pb2 as pb

DTYPES = {
    name: np.dtype(code)
    for name, code in {
        "bool": "?",
        "int8": "<i1",
        "int16": "<i2",
        "int32": "<i4",
        "int64": "<i8",
        "uint8": "<u1",
        "uint16": "<u2",
        "uint32": "<u4",
        "uint64": "<u8",
        "float16": "<f2",
        "bfloat16": "<u2",
        "float32": "<f4",
        "float64": "<f8",
    }.items()
}
"""What a tensor may hold, and how numpy reads it; bfloat16, which numpy has not, is widened afterwards."""

_NAMES = {np.dtype(code).newbyteorder("="): name for name, code in DTYPES.items() if name != "bfloat16"}


@dataclass(frozen=True)
class Limits:
    """What one document may hold, at most. Inline JSON grows thirtyfold in memory; large arrays travel as tensors."""

    json_bytes: int = 8 * 2**20
    tensors: int = 256
    numbers: int = LARGEST_ARRAY
    axes: int = 8
    depth: int = 32


SMALL = 4096
"""Bytes of an array up to which protobuf copies it faster than its field is written by hand."""

Part = bytes | memoryview

_BYTES = [bytes([value]) for value in range(0x80)]


def field(number: int, parts: Iterable[Part]) -> list[Part]:
    """A field with a length, as protobuf writes it, in parts that are not copied."""
    listed = list(parts)
    return [_varint(number << 3 | 2) + _varint(sum(map(len, listed))), *listed]


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _BYTES[value]
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


# -- documents ---------------------------------------------------------------------------------------------------


def document(fields: Mapping[str, Any]) -> list[Part]:
    """The fields of a spec or plan as a `Document`, arrays as tensors."""
    slim, tensors = detach(fields)
    message, large = pb.Document(json=_encode(slim)), list[Part]()
    for name, array in tensors.items():
        if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
            array = array.astype(array.dtype.newbyteorder("<"))
        if array.nbytes > SMALL:
            large += field(2, [*field(1, [name.encode()]), *field(2, _tensor(array))])
            continue
        tensor = message.tensors[name]
        tensor.dtype, tensor.data = _name(array.dtype), array.tobytes()
        tensor.shape.extend(array.shape)
    return [message.SerializeToString(deterministic=True), *large]


def _tensor(array: NDArray[Any]) -> list[Part]:
    shape = b"".join(map(_varint, array.shape))
    return [*field(1, [_name(array.dtype).encode()]), *field(2, [shape]), *field(3, [array.data.cast("B")])]


def carries(array: NDArray[Any]) -> bool:
    """Whether a tensor may hold an array as it is."""
    return array.dtype.isnative and array.dtype in _NAMES


@cache
def _name(dtype: np.dtype[Any]) -> str:
    return _NAMES[dtype.newbyteorder("=")]


def read_document(message: pb.Document, limits: Limits) -> dict[str, Any]:
    """The fields in a `Document`, its tensors back in place. Raises `SpecError`."""
    text = message.json
    if len(text) > limits.json_bytes:
        raise SpecError(
            f"the document has {len(text):,} characters, at most {limits.json_bytes:,} are read: "
            "send arrays as tensors beside it"
        )
    if len(message.tensors) > limits.tensors:
        raise SpecError(f"the document has {len(message.tensors):,} tensors, at most {limits.tensors} are read")
    fields, left = _parsed(text), limits.numbers
    tensors = dict[str, NDArray[Any]]()
    for name, tensor in message.tensors.items():
        tensors[name] = array = _array(name, tensor, limits, left)
        left -= array.size
    if attach(fields, tensors, limits.depth) > left:
        raise SpecError(f"the document holds more than {limits.numbers:,} numbers")
    return fields


def _parsed(text: str) -> dict[str, Any]:
    try:
        fields = _decode(text)
    except RecursionError:
        raise SpecError("the document is nested too deeply") from None
    except ValueError as error:
        raise SpecError(f"the document is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise SpecError(f"the document must be a set of named fields, got {type(fields).__name__}")
    return fields


def _refuse(name: str) -> float:
    raise SpecError(f"the document is not valid JSON: {name} is no number; write the string 'inf' for no bound")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise SpecError(f"{twice!r:.60} is given twice")
    return fields


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_decode = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_once).decode


def _array(name: str, tensor: pb.Tensor, limits: Limits, left: int) -> NDArray[Any]:
    """The array of a tensor, without a copy. Raises `SpecError`."""
    dtype, shape = DTYPES.get(tensor.dtype), tuple(tensor.shape)
    problem = None
    if dtype is None:
        problem = f"dtype must be one of {', '.join(DTYPES)}, got {tensor.dtype!r:.60}"
    elif len(shape) > limits.axes:
        problem = f"has {len(shape)} axes, at most {limits.axes} are read"
    elif min(shape, default=0) < 0:
        problem = f"has a negative length in its shape {list(shape)!s:.100}"
    elif (math.prod(shape) or math.prod(max(length, 1) for length in shape)) > left:  # rows without numbers are rows
        problem = f"has a shape of {list(shape)!s:.100}: at most {limits.numbers:,} numbers are read in one document"
    elif math.prod(shape) * dtype.itemsize != len(tensor.data):
        wanted = math.prod(shape) * dtype.itemsize
        problem = f"has {len(tensor.data):,} bytes, but {tensor.dtype} {list(shape)} takes {wanted:,}"
    if problem is not None or dtype is None:  # the second is one of the first
        raise SpecError([Problem(problem or "", ("tensors", name[:60]))])
    array = np.frombuffer(tensor.data, dtype).reshape(shape)
    if tensor.dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
        array.flags.writeable = False
    return array


# -- options and certificates --------------------------------------------------------------------------------------


def options(chosen: Options) -> pb.Options:
    """Options as a message."""
    return pb.Options(**{name: value for name, value in asdict(chosen).items() if value is not None})


@lru_cache(256)
def options_field(chosen: Options) -> bytes:
    """Options as the second field of a request, which is its last."""
    return b"".join(field(2, [options(chosen).SerializeToString()]))


def read_options(message: pb.Options) -> Options:
    """The options in a message. Raises `UnsupportedError` for what no solve allows."""
    present = {name: getattr(message, name) for name in ("backend", "time_limit", "gap") if message.HasField(name)}
    method: Any = message.method or "auto"
    chosen = Options(method, seed=message.seed, threads=message.threads or 1, **present)
    if chosen.backend is not None and len(chosen.backend) > 100:
        raise UnsupportedError(f"backend: {chosen.backend!r:.60} is no name of a backend")
    return chosen


_SINGLE = tuple(
    field.name for field in pb.Certificate.DESCRIPTOR.fields if not (field.is_repeated or field.has_presence)
)
"""The fields of a certificate that hold one value, always."""


def certificate(issued: Certificate) -> pb.Certificate:
    """A certificate as a message."""
    return pb.Certificate(**{name: value for name, value in issued.__dict__.items() if value is not None})


def read_certificate(message: pb.Certificate) -> Certificate:
    """The certificate in a message. Raises `SpecError`."""
    from pydantic import ValidationError

    fields = {name: getattr(message, name) for name in _SINGLE}
    for name in ("time_limit", "spec_digest"):
        if message.HasField(name):
            fields[name] = getattr(message, name)
    try:
        return Certificate(**fields, versions=dict(message.versions), notes=tuple(message.notes))
    except ValidationError as error:
        first = error.errors()[0]
        place: Place = ("certificate", *first["loc"])
        raise SpecError([Problem(f"{first['msg']}, got {first['input']!r:.60}", place)]) from None


# -- specs and plans -----------------------------------------------------------------------------------------------


def spec_fields(spec: Spec[Any]) -> list[Part]:
    """A spec as a `Document`."""
    return document(spec.fields())


def read_task(message: pb.Document, limits: Limits) -> Spec[Any]:
    """The spec in a `Document`, validated whole. It may not refer to files. Raises `SpecError`."""
    return read_spec(read_document(message, limits), Folder(None))


def plan_fields(plan: Plan) -> list[Part]:
    """A plan and its certificate as a `Plan`."""
    parts = field(1, document(plan.fields()))
    if plan.certified:
        parts += field(2, [certificate(plan.certificate).SerializeToString()])
    return parts


def read_plan(message: pb.Plan, limits: Limits) -> Plan:
    """The plan in a `Plan`, under its certificate if there is one. Raises `SpecError`."""
    fields = read_document(message.document, limits)
    name = fields.get("kind")
    if not isinstance(name, str):
        raise SpecError([Problem("must name the kind of task", ("kind",))])
    plan = kind(name).plan.read(fields, Folder(None))
    return plan.signed(read_certificate(message.certificate)) if message.HasField("certificate") else plan
