"""What a session says and hears, without any I/O: which requests a step takes, and what its answers mean.

A stream that breaks takes the warm state with it. The session then opens anew with the spec as it stood, whole, and
repeats the step; the certificate of the plan tells.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import grpc
import numpy as np
from google.rpc.code_pb2 import Code

from ...server.protocol import equipoise_pb2 as pb
from ...server.protocol import wire
from ...server.protocol.failures import Refused, from_call
from ...solvers.control import Options
from ...solvers.session import kept
from ...specs.errors import EquipoiseError, InfeasibleError, ServiceError
from ...specs.sources import Folder
from ...specs.spec import Plan, Spec
from ..asked import limit, seconds
from . import messages
from .patience import Patience

P = TypeVar("P", bound=Plan)

STALE = "STALE_SESSION"
"""The reason that the service gives where it no longer has a session."""
MARGIN = 0.05
"""Seconds of a step's timeout that are kept for the way there and back, at most a tenth of it."""
DEEPEST = 4
"""Tables within tables that a change may hold, if nobody has read it."""


def lost(why: str) -> Refused:
    """A session that the service has no more; another may do."""
    return Refused(Code.UNAVAILABLE, STALE, why)


@dataclass(frozen=True)
class Change(Generic[P]):
    """What a step changes. spec: what the spec becomes, where that had to be known to say it."""

    fields: dict[str, Any]
    spec: Spec[P] | None = None


class Turns(Generic[P]):
    """The state of a session, for one thread or task at a time. First it is opened, then ready, and at last closed,
    by anybody and at any moment: who opens a stream has to ask again once he has it, for nobody else would hang up.

    ready: whether a stream is open on which the service knows the spec. restarts: how often the warm state was lost.
    """

    def __init__(self, spec: Spec[P], options: Options, timeout: float | None, default: float) -> None:
        self._spec = kept(spec)
        self._accepted = dict[str, Any]()
        self._both = threading.Lock()  # whoever reads the spec may be another thread
        self.restarts = 0
        self.ready = False
        self.closed = False
        self._timeout = limit(timeout, options, default)
        self._options = options if timeout is None else _limited(options, seconds("timeout", timeout))
        self._read = messages.plan_reader(spec)
        self._revision = 0
        self._notes: list[str] = []
        self._begun = False

    def patience(self, retry_for: float) -> Patience:
        """The time for a step: one that was under way waits for the service until its timeout."""
        late = f"no answer to this step within {self._timeout:g} s"
        return Patience(self._timeout, late=late) if self._begun else Patience(self._timeout, retry_for, late)

    @property
    def spec(self) -> Spec[P]:
        """The task as both sides know it."""
        with self._both:
            if self._accepted:
                self._spec, self._accepted = self._spec.replaced(self._accepted, Folder(None)), {}
            return self._spec

    def change(self, changes: dict[str, Any]) -> Change[P]:
        """What a step is to say. Numbers and arrays go out as they are: the service validates them, and once is
        enough. Whatever else there is, such as files and tensors, is read here. Raises `SpecError`."""
        self.ensure_open()
        if (plain := _plain(changes)) is not None:
            return Change(plain)
        wanted = kept(self.spec.replace(**changes), changes)
        fields = wanted.fields()
        return Change({name: fields.get(name) for name in changes}, wanted)

    def lacks_stream(self) -> bool:
        """Whether a stream is to be opened first. Raises `EquipoiseError` once the session is closed."""
        self.ensure_open()
        return not self.ready

    def ensure_open(self) -> None:
        """Raises `EquipoiseError` once the session is closed."""
        if self.closed:
            raise EquipoiseError("the session is closed")

    def opening(self) -> bytes:
        """The request that opens a stream."""
        self._revision = 0
        return messages.session_open(self.spec, self._options)

    def opened(self, data: bytes) -> None:
        """Hear the answer to that. Raises what the service refuses with."""
        response = messages.session_response(data)
        if response.HasField("failure"):
            raise self._failure(response)
        if not response.HasField("opened"):
            raise ServiceError("the service did not say whether the session is open")
        self.ready = self._begun = True

    def step(self, change: Change[P]) -> bytes:
        """The request for a step."""
        return messages.session_step(change.fields, self._revision)

    def answered(self, data: bytes, change: Change[P]) -> P:
        """Hear the answer to a step: the plan. Raises why there is none; the spec then stays as it was."""
        with self.on_the_wire():
            response = messages.session_response(data)
        if response.HasField("failure"):
            error = self._failure(response)
            if isinstance(error, Refused) and error.reason == STALE:
                self._broken(error)
            raise error
        with self.on_the_wire():
            plan = messages.outcome(response, self._read)
            if response.revision != self._revision + 1:
                raise lost(f"the service is at step {response.revision}, this client at {self._revision + 1}")
        self._revision += 1
        with self._both:
            if change.spec is None:
                self._accepted |= change.fields
            else:
                self._spec, self._accepted = change.spec, {}
        return self._noted(plan)

    @contextmanager
    def on_the_wire(self) -> Iterator[None]:
        """What fails in here takes the stream along, unless it is that there is no plan."""
        try:
            yield
        except InfeasibleError:
            raise
        except grpc.RpcError as failed:
            error = _stale(from_call(failed))
            self._broken(error)
            raise error from None
        except BaseException as error:
            self._broken(error)
            raise

    def _broken(self, error: BaseException) -> None:
        if self.ready:
            self.restarts += 1
            why = str(error) or f"the step was given up ({type(error).__name__})"
            self._notes.append(f"the session's warm state was lost and built up again: {why}")
        self.ready = False

    def _noted(self, plan: P) -> P:
        """The plan, with what became of the session since the one before it."""
        if not self._notes:
            return plan
        certificate = plan.certificate
        notes, self._notes = self._notes, []
        return plan.with_certificate(certificate.model_copy(update={"notes": (*certificate.notes, *notes)}))

    def _failure(self, response: pb.SessionResponse) -> EquipoiseError:
        return _stale(messages.failure(response.failure))


def _plain(changes: dict[Any, Any], depth: int = DEEPEST) -> dict[str, Any] | None:
    """Changes that a message holds as they are, their arrays copied; None where there are others among them."""
    plain = dict[str, Any]()
    for name, value in changes.items():
        if type(name) is not str or not name.isascii():
            return None
        if type(value) is dict:
            if not depth or not _MARKS.isdisjoint(value) or (value := _plain(value, depth - 1)) is None:
                return None
        elif type(value) is np.ndarray and wire.carries(value):
            value = value.copy()
            value.flags.writeable = False
        elif not (value is None or type(value) is bool or _sendable(value)):
            return None
        plain[name] = value
    return plain


def _sendable(value: Any) -> bool:
    """Whether JSON carries a number or a text as it is, there and back."""
    if type(value) is int:
        return value.bit_length() < 64
    return (type(value) is float and math.isfinite(value)) or (type(value) is str and value.isascii())


_MARKS = frozenset({"file", "$tensor"})
"""What stands in a table for something else."""


def _stale(error: EquipoiseError) -> EquipoiseError:
    return lost(str(error)) if isinstance(error, Refused) and error.reason == STALE else error


def _limited(options: Options, timeout: float) -> Options:
    """Options under which a step ends within its timeout, with the best plan so far: a stream has no deadline."""
    most = max(timeout - MARGIN, 0.9 * timeout)
    return replace(options, time_limit=most if options.time_limit is None else min(options.time_limit, most))
