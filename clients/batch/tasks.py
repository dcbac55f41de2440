"""One spec of a batch: where it stands among its sources, its text, and how both are known again after a stop.

A place is known by its key, and what stands there by its digest: a batch that goes on after a stop leaves out a place
that has an outcome already, and solves it again where its text has changed since. Both hold from one run to the next
and from one machine to the next, for the same names of files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ...specs.errors import SpecError

KEY_BYTES, DIGEST_BYTES = 16, 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where a spec comes from.

    file: as people know it: the path as it was given, or found below a given folder; `<stdin>`.
    line: of a file of JSON lines, or the row of a table, the first being 1; None for a file that is one spec.
    point: the values of the swept fields by dotted name, in the order of the sweep; None where nothing is swept.
    """

    file: str
    line: int | None = None
    point: Mapping[str, bool | int | float | str | None] | None = None

    def key(self) -> bytes:
        """16 bytes that no other place has; of a place that was written as JSON and read back, the same."""
        text = f"{self.line or 0} {len(self.file)} {self.file}"
        if self.point is not None:
            text += json.dumps(list(self.point.items()))
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()

    def document(self) -> dict[str, Any]:
        """`file`, and `line` and `sweep` where there are any, as every line about this place starts."""
        document: dict[str, Any] = {"file": self.file}
        if self.line is not None:
            document["line"] = self.line
        if self.point is not None:
            document["sweep"] = dict(self.point)
        return document


@dataclass(frozen=True, slots=True)
class Task:
    """A spec to be solved.

    text: the whole document: YAML or JSON; one line of JSON lines; a table's row, written as JSON.
    folder: where its file references start.
    """

    place: Place
    text: str
    folder: Path

    def digest(self) -> bytes:
        """8 bytes that change with the text. The point of a sweep is in the place."""
        return _digest(self.text)


@dataclass(frozen=True, slots=True)
class Unread:
    """A place that no spec could be read from, and why. name: of the spec, as far as it could be read."""

    place: Place
    error: SpecError
    name: str | None = None

    def digest(self) -> bytes:
        """8 bytes that change with the reason."""
        return _digest(str(self.error))


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
