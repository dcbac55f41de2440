"""What a line of a batch's output says: an outcome, where its spec stands, and a digest of the text that was solved.

A result is written and read back without a look at its plan, which may be long: the line is put together from the
worker's own bytes, and what a later run needs of it stands at its two ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ...solvers import records
from .tally import Tally
from .tasks import DIGEST_BYTES, Place


@dataclass(frozen=True, slots=True)
class Solved:
    """A task with a plan.

    body: the worker's JSON object, `{"kind": …, "name": …, "plan": …, "certificate": …, "check": …}`, on one line;
        of a line that was read back, nothing. kind, status, gap, seconds: what that says.
    """

    place: Place
    digest: bytes
    body: bytes
    kind: str
    status: str
    gap: float
    seconds: float

    def tell(self, tally: Tally) -> None:
        """Count it."""
        tally.solved(self.kind, self.status, self.gap, self.seconds)


@dataclass(frozen=True, slots=True)
class Failed:
    """A task without a plan.

    kind, name: of the spec, as far as they could be read. type: the class of the error. reason: its message.
    exit_code: what this failure alone would end the program with.
    details: what else a program may want to know, as JSON carries it: `problems`, `fields`, `change`, and `cause`:
        what the failure is counted under, if not under its type.
    """

    place: Place
    digest: bytes
    kind: str | None
    name: str | None
    type: str
    reason: str
    exit_code: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def tell(self, tally: Tally) -> None:
        """Count it."""
        cause = self.details.get("cause")
        tally.failed(self.kind, self.type, self.exit_code, cause if isinstance(cause, str) else None)


class Broken(ValueError):
    """A line is not one that a batch writes."""


# -- writing ---------------------------------------------------------------------------------------------------------


def result_line(solved: Solved) -> bytes:
    """The line of a plan. Raises `ValueError` for a body that is not one JSON object on one line."""
    body = solved.body
    if not body.startswith(b'{"kind":') or not body.endswith(b"}") or b"\n" in body:
        raise ValueError(f"a result is a JSON object on one line that begins with its kind, got {body!r:.100}")
    head = json.dumps(solved.place.document(), allow_nan=False)[:-1].encode()
    return b'%b, %b, "digest": "%b"}\n' % (head, body[1:-1], solved.digest.hex().encode())


def failure_line(failed: Failed) -> bytes:
    """The line of a failure."""
    document = failed.place.document() | {
        "kind": failed.kind,
        "name": failed.name,
        "type": failed.type,
        "reason": failed.reason,
        "exit_code": failed.exit_code,
    }
    document |= {name: value for name, value in failed.details.items() if name not in document}
    document["digest"] = failed.digest.hex()
    return records.line(document).encode() + b"\n"


# -- reading ---------------------------------------------------------------------------------------------------------

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_HEAD = re.compile(
    rb'\{"file": ?(%b)(?:, ?"line": ?([1-9][0-9]*))?(?:, ?"sweep": ?(\{(?:[^"{}\[\]]|%b)*\}))?, ?"kind": ?"(\w+)", ?"'
    % (_STRING, _STRING)
)
_CHECK = re.compile(r', ?"check": ?')
_DIGEST = re.compile(rf', ?"digest": ?"([0-9a-f]{{{2 * DIGEST_BYTES}}})"\}}\n')
_decode = json.JSONDecoder().raw_decode


def read_result(line: bytes) -> Solved:
    """What the line of a plan says, its line feed included. Raises `Broken`.

    The plan of a line that looks like ours is not read, nor found to be JSON. That what is taken for the certificate
    is that of the line and nothing inside the plan follows from what comes after it: the check, the digest, the brace
    that ends the object, and the end of the line.
    """
    head = _HEAD.match(line)
    start = line.rfind(b'"certificate": {')
    # A string would have a backslash before the quote; a line that was torn and written on has two beginnings.
    whole = b"\0" not in line and line.find(b'{"file":', 1) < 0
    if head is not None and start > head.end() and line[start - 1] in b" ," and whole:
        try:
            # The whole of the plan stays bytes.
            text = line[start + len(b'"certificate": ') :].decode()
            certificate, end = _decode(text)
            check = _CHECK.match(text, end)
            digest = None if check is None else _DIGEST.fullmatch(text, _decode(text, check.end())[1])
            if digest is not None:
                file, number, sweep, kind = head.groups()
                place = Place(
                    json.loads(file),
                    None if number is None else int(number),
                    None if sweep is None else json.loads(sweep),
                )
                return _solved(place, digest[1], kind.decode(), certificate)
        except (ValueError, RecursionError):
            pass
    return solved_of(document_of(line))


def read_failure(line: bytes) -> Failed:
    """What the line of a failure says. Raises `Broken`."""
    document = document_of(line)
    place, digest = _place(document), _digest(document.pop("digest", None))
    kind, name, type_, reason, code = (
        document.pop(field, None) for field in ("kind", "name", "type", "reason", "exit_code")
    )
    if (
        not isinstance(kind, str | None)
        or not isinstance(name, str | None)
        or not isinstance(type_, str)
        or not isinstance(reason, str)
        or not isinstance(code, int)
        or isinstance(code, bool)
    ):
        raise Broken("has no kind, name, type, reason and exit_code")
    return Failed(place, digest, kind, name, type_, reason, code, document)


def solved_of(document: dict[str, Any]) -> Solved:
    """What the document of a plan's line says. Raises `Broken`."""
    return _solved(_place(document), document.get("digest"), document.get("kind"), document.get("certificate"))


def document_of(line: bytes) -> dict[str, Any]:
    """A line as a JSON object. Raises `Broken`."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise Broken("is not JSON") from None
    if not isinstance(document, dict):
        raise Broken("is not a JSON object")
    return document


def number_of(document: dict[str, Any], name: str) -> float:
    """A number of a certificate, which may be written as "inf" or "-inf". Raises `Broken`."""
    value = document.get(name)
    if value in ("inf", "-inf") or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        with suppress(OverflowError):  # an integer of hundreds of digits
            return float(value)
    raise Broken(f"has {name} {value!r:.60} in its certificate, where a number is wanted")


def _solved(place: Place, digest: Any, kind: Any, certificate: Any) -> Solved:
    if not isinstance(kind, str) or not isinstance(certificate, dict):
        raise Broken("has no kind and certificate")
    status, gap, seconds = certificate.get("status"), number_of(certificate, "gap"), number_of(certificate, "seconds")
    if not isinstance(status, str) or not gap >= 0 or not seconds >= 0:
        raise Broken("has a certificate without a status, or with a gap or seconds below 0")
    return Solved(place, _digest(digest), b"", kind, status, gap, seconds)


def _place(document: dict[str, Any]) -> Place:
    file, line, sweep = (document.pop(field, None) for field in ("file", "line", "sweep"))
    if (
        not isinstance(file, str)
        or not isinstance(line, int | None)
        or isinstance(line, bool)
        or not isinstance(sweep, dict | None)
    ):
        raise Broken("does not say which spec it is about: it has no file, line and sweep as a batch writes them")
    return Place(file, line, sweep)


def _digest(text: Any) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except (TypeError, ValueError):
        digest = b""
    if len(digest) != DIGEST_BYTES:
        raise Broken(f"has no digest of {2 * DIGEST_BYTES} hexadecimal digits")
    return digest
