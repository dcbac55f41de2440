"""Who calls, and how much may they ask for: tenants, their bearer tokens, and their quotas.

The file holds SHA-256 digests of tokens, never tokens. A token has 256 random bits, so a plain digest is enough: there
is nothing to guess. The rate is a token bucket on the monotonic clock, which no change of the wall clock moves.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import os
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, NoReturn, Self

import structlog
from google.rpc.code_pb2 import Code
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from ..specs.errors import Problem, SpecError, shown
from .protocol.failures import Refused

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a tenant may be called: it becomes a label of metrics and a column of the store."""

LARGEST_FILE = 16 * 2**20
LOOKED_AGAIN = 1.0
"""Seconds between two looks at the file."""

_log = structlog.get_logger()
_Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Quotas(BaseModel):
    """What a tenant may ask for, at most. Without a limit of its own where absent; the server's limits hold for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_second: _Positive | None = Field(default=None, description="calls and steps of sessions, on average")
    burst: PositiveInt | None = Field(
        default=None, description="calls at once after a pause; one second's worth if absent"
    )
    concurrent: PositiveInt | None = Field(default=None, description="calls in flight")
    sessions: PositiveInt | None = Field(default=None, description="open sessions")
    queued_jobs: PositiveInt | None = Field(default=None, description="jobs that wait")
    numbers: PositiveInt | None = Field(default=None, description="numbers in the arrays of one spec")
    seconds: _Positive | None = Field(default=None, description="time limit of one solve")
    threads: PositiveInt | None = Field(default=None, description="threads of one solve")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.burst is not None and self.requests_per_second is None:
            raise ValueError("burst takes effect with requests_per_second alone: set both")
        return self


class _Entry(Quotas):
    """A tenant in the file."""

    tokens: Annotated[list[_Digest], Field(min_length=1, max_length=1000)]


_file = TypeAdapter(dict[str, _Entry])


class Tenant:
    """One tenant: its name, its quotas, and what it has in flight. For the event loop: it takes no locks.

    quotas are replaced as a whole when the file changes, and are None once the tenant has gone from it.
    """

    def __init__(self, name: str, quotas: Quotas | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.quotas: Quotas | None = quotas or Quotas()
        self.calls = 0
        self.sessions = 0
        self._clock = clock
        self._spent = -math.inf  # the bucket has filled since: it holds (now − spent)·rate tokens, at most `burst`
        self._call, self._session = _Call(self), _Session(self)

    def limits(self) -> Quotas:
        """The quotas in force. Raises `Refused` once the tenant has gone."""
        quotas = self.quotas  # once: solver threads ask too
        if quotas is None:
            raise Refused(Code.PERMISSION_DENIED, "TENANT_GONE", f"the tenant {self.name} is no longer served here")
        return quotas

    def call(self) -> _Call:
        """To be entered for each call and each step of a session: counts it as long as it lasts.

        Entering raises `Refused` where the rate or the number of calls in flight would exceed the quotas.
        """
        return self._call

    def session(self) -> _Session:
        """To be entered for each session. Entering raises `Refused` where there would be more than the quota."""
        return self._session

    def _admit(self) -> None:
        quotas = self.limits()
        if quotas.concurrent is not None and self.calls >= quotas.concurrent:
            self._refuse("CONCURRENCY_QUOTA", f"may have {quotas.concurrent} calls in flight, and has", 0.1)
        rate = quotas.requests_per_second
        if rate is None:
            return
        now = self._clock()
        spent = max(self._spent, now - (quotas.burst or max(1.0, rate)) / rate) + 1 / rate
        if spent > now + 1e-9:
            self._refuse("RATE_QUOTA", f"may make {rate:g} requests per second, and made more", spent - now)
        self._spent = spent

    def _refuse(self, reason: str, message: str, retry_after: float) -> NoReturn:
        raise Refused(Code.RESOURCE_EXHAUSTED, reason, f"the tenant {self.name} {message}", retry_after)


class _Call:
    """Counts a call. One object serves all calls of a tenant, since all it knows is the tenant."""

    __slots__ = ("_tenant",)

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    def __enter__(self) -> None:
        self._tenant._admit()
        self._tenant.calls += 1

    def __exit__(self, *error: object) -> None:
        self._tenant.calls -= 1


class _Session:
    """Counts a session."""

    __slots__ = ("_tenant",)

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    def __enter__(self) -> None:
        tenant, most = self._tenant, self._tenant.limits().sessions
        if most is not None and tenant.sessions >= most:
            tenant._refuse("SESSION_QUOTA", f"may have {most} sessions open, and has", 1.0)
        tenant.sessions += 1

    def __exit__(self, *error: object) -> None:
        self._tenant.sessions -= 1


Metadata = Iterable[tuple[str, str | bytes]]


class Tenants:
    """The tenants of a file; without a file one tenant, `default`, which needs no token and has no quotas."""

    def __init__(self, file: Path | None = None) -> None:
        """Raises `SpecError` for a file that cannot be read."""
        self._file = file
        self._default = Tenant("default") if file is None else None
        self._named: dict[str, Tenant] = {}
        self._tokens: dict[bytes, list[tuple[bytes, Tenant]]] = {}
        self._seen: object = None
        if file is not None:
            self._seen = _mark(file)
            self._take(_read(file))

    def authenticate(self, metadata: Metadata | None) -> Tenant:
        """The tenant whose token a call carries. Raises `Refused`, UNAUTHENTICATED."""
        if self._default is not None:
            return self._default
        given = [value for key, value in metadata or () if key.lower() == "authorization"]
        if not given:
            raise _unauthenticated("TOKEN_MISSING", "the call carries no token: connect with token=…")
        header = given[0].encode("utf-8", "surrogateescape") if isinstance(given[0], str) else given[0]
        scheme, _, token = header.partition(b" ")
        if len(given) > 1 or scheme.lower() != b"bearer" or not token.strip():
            raise _unauthenticated("TOKEN_MALFORMED", "the metadata must hold one line `authorization: Bearer TOKEN`")
        digest = hashlib.sha256(token.strip()).digest()
        # The bucket depends on four bytes of the digest, the time on nothing else that was given.
        for known, tenant in self._tokens.get(digest[:4], ()):
            if hmac.compare_digest(known, digest):
                return tenant
        raise _unauthenticated("TOKEN_UNKNOWN", "the token is not known here: it may have been withdrawn")

    def renewal(self, metadata: Metadata | None) -> Callable[[], None]:
        """For a call that lasts: raises `Refused` once its token has been withdrawn."""
        seen: object = None
        tenant: Tenant | None = None

        def renew() -> None:
            nonlocal seen, tenant
            now = self._tokens  # before it is used: the file may be read again meanwhile
            if seen is now:
                return
            found = self.authenticate(metadata)
            if tenant is not None and found is not tenant:
                raise _unauthenticated("TOKEN_MOVED", "the token is another tenant's now: call again")
            seen, tenant = now, found

        renew()
        return renew

    def refresh(self) -> None:
        """Read the file again if it has changed. One that is broken leaves all as it was, and an error in the log."""
        if self._file is None or (seen := _mark(self._file)) == self._seen:
            return
        self._seen = seen
        try:
            self._take(_read(self._file))
        except SpecError as error:
            _log.error("tenants_file_refused", file=str(self._file), error=str(error))
        else:
            _log.info("tenants_file_read", file=str(self._file), tenants=len(self._named))

    async def watch(self) -> NoReturn:
        """Read the file again whenever it changes, until cancelled."""
        while True:
            await asyncio.sleep(LOOKED_AGAIN)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # whatever it was, the file is looked at again
                _log.error("tenants_file_unread", file=str(self._file), error=type(error).__name__)

    def _take(self, entries: dict[str, _Entry]) -> None:
        named = {name: self._named.get(name) or Tenant(name) for name in entries}
        tokens = dict[bytes, list[tuple[bytes, Tenant]]]()
        for name, entry in entries.items():
            named[name].quotas = entry
            for text in entry.tokens:
                digest = bytes.fromhex(text)
                tokens.setdefault(digest[:4], []).append((digest, named[name]))
        gone = [tenant for name, tenant in self._named.items() if name not in entries]
        self._named, self._tokens = named, tokens
        for tenant in gone:
            tenant.quotas = None


def _unauthenticated(reason: str, message: str) -> Refused:
    return Refused(Code.UNAUTHENTICATED, reason, message)


def _mark(file: Path) -> object:
    """What changes whenever the file does."""
    try:
        found = os.stat(file)
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(file: Path) -> dict[str, _Entry]:
    """What stands in a file. Raises `SpecError`."""
    try:
        with file.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ValueError(f"has more than {LARGEST_FILE:,} bytes")
        entries = _file.validate_python(tomllib.loads(data.decode()))
    except ValidationError as error:
        raise SpecError(
            [_problem(entry["msg"], entry["loc"], entry["input"], file) for entry in error.errors()]
        ) from None
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror}", file=str(file))]) from None
    except ValueError as error:
        raise SpecError([Problem(f"is not a file of tenants: {error}", file=str(file))]) from None
    owners = dict[str, str]()
    for name, entry in entries.items():
        if not NAME.fullmatch(name):
            wanted = "a name takes up to 64 letters, digits and . _ -, and begins with a letter or digit"
            raise SpecError([Problem(f"{wanted}, got {shown(name)}", file=str(file))])
        for text in entry.tokens:
            if (owner := owners.setdefault(text, name)) != name:
                raise SpecError([Problem(f"has a token that {owner} has too", (name, "tokens"), str(file))])
    return entries


def _problem(message: str, place: tuple[int | str, ...], value: object, file: Path) -> Problem:
    if "tokens" in place:  # somebody may have pasted the token itself
        message, value = "must list the SHA-256 digests that `equipoise token` prints, 64 hexadecimal digits each", None
    else:
        message = message.removeprefix("Value error, ")
        message = f"{message[0].lower()}{message[1:]}" + ("" if isinstance(value, dict) else f", got {shown(value)}")
    return Problem(message, place, str(file))


def new_token() -> tuple[str, str]:
    """A random token of 256 bits, and the digest for the file."""
    token = f"eq_{secrets.token_urlsafe(32)}"
    return token, hashlib.sha256(token.encode()).hexdigest()
