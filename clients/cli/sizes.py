"""Sizes as people write them: `4GiB`, `512 MB`, a number of bytes."""

from __future__ import annotations

from pydantic import ByteSize, TypeAdapter, ValidationError

from ...specs.errors import SpecError, shown

_size = TypeAdapter(ByteSize)


def size(flag: str, text: str) -> int:
    """The bytes that a flag asks for. Raises `SpecError`."""
    try:
        return int(_size.validate_python(text))
    except ValidationError:
        raise SpecError(f"{flag}: must be a size such as 4GiB or 512MB, got {shown(text)}") from None
