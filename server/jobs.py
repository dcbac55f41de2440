"""The service `equipoise.v1.Jobs`: solves that outlive the call."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from functools import partial

import grpc
from google.rpc.code_pb2 import Code

from ..solvers.control import Options
from ..specs.spec import Spec, kind
from .answers import content_key
from .calls import Gate
from .engine import Call, Engine, parsed
from .job_queue import JobQueue
from .protocol import equipoise_pb2 as pb
from .protocol import wire
from .protocol.failures import Refused
from .store import NewJob, not_found

NAME = "equipoise.v1.Jobs"

LONGEST_KEY = 128
PAGE, LARGEST_PAGE = 100, 1000
INTERVAL, SHORTEST, LONGEST = 0.25, 0.05, 3600.0
"""Seconds between two messages about progress: if nothing is said, at least, at most."""
_ID = re.compile("[0-9a-f]{32}")


class JobsService:
    """Handlers of the service."""

    def __init__(self, engine: Engine, queue: JobQueue) -> None:
        self._engine, self._queue = engine, queue

    def handlers(self, gate: Gate) -> grpc.GenericRpcHandler:
        """What a gRPC server calls for this service."""
        methods = {
            "Submit": gate.unary(f"{NAME}/Submit", self._submit),
            "Get": gate.unary(f"{NAME}/Get", self._get),
            "List": gate.unary(f"{NAME}/List", self._list),
            "Watch": gate.streamed(f"{NAME}/Watch", self._watch),
            "Cancel": gate.unary(f"{NAME}/Cancel", self._cancel),
            "Delete": gate.unary(f"{NAME}/Delete", self._delete),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def _submit(self, call: Call, raw: bytes) -> bytes:
        with self._engine.admission.taking("Submit", len(raw)) as work:
            new = await self._engine.in_thread(call, work, partial(self._read, call, raw))
        job = await self._queue.submit(new, call.tenant.limits().queued_jobs)
        return pb.SubmitResponse(job=job).SerializeToString()

    def _read(self, call: Call, raw: bytes) -> NewJob:
        """What a thread does: the request, read and validated whole, so that no worker gets what nobody can solve."""
        message = parsed(pb.SubmitRequest, raw)
        key = message.idempotency_key
        if len(key) > LONGEST_KEY or not key.isprintable():
            raise _bad("idempotency_key", f"must be at most {LONGEST_KEY} printable characters, got {key!r:.60}")
        options = self._engine.options(call, message.options)
        limits = self._engine.limits(call)
        spec = wire.read_task(message.spec, limits)
        call.kind = spec.kind
        most = call.tenant.limits().seconds
        if most is not None:  # the certificate tells of it as of any time limit
            message.options.time_limit = most if options.time_limit is None else min(options.time_limit, most)
        return NewJob(
            tenant=call.tenant.name,
            kind=spec.kind,
            name=spec.name or "",
            request=pb.SolveRequest(spec=message.spec, options=message.options).SerializeToString(),
            fingerprint=_fingerprint(spec, options),
            content=content_key(call.tenant.name, message.spec, options, limits),
            idempotency_key=key,
        )

    async def _get(self, call: Call, raw: bytes) -> bytes:
        message = parsed(pb.GetRequest, raw)
        id = _id(message.id)
        if message.without_result:
            job, result = await self._queue.get(call.tenant.name, id), None
        else:
            job, result = await self._queue.result(call.tenant.name, id)
        call.kind = job.kind
        parts = wire.field(1, [job.SerializeToString()])
        if result is not None:
            parts += wire.field(2, [result])
        return b"".join(parts)

    async def _list(self, call: Call, raw: bytes) -> bytes:
        message = parsed(pb.ListRequest, raw)
        size = message.page_size or PAGE
        if size > LARGEST_PAGE:
            raise _bad("page_size", f"must be at most {LARGEST_PAGE}, got {size:,}")
        if message.page_token and not _ID.fullmatch(message.page_token):
            raise _bad("page_token", "must be the next_page_token of another page")
        states = set(message.states)
        if strange := states - set(pb.JobState.values()[1:]):
            raise _bad("states", f"there is no state of jobs {min(strange)}")
        if message.kind:
            kind(message.kind)  # raises for a name that is none
        found = await self._queue.page(call.tenant.name, size + 1, message.page_token, sorted(states), message.kind)
        more = len(found) > size
        return pb.ListResponse(
            jobs=found[:size], next_page_token=found[size - 1].id if more else ""
        ).SerializeToString()

    async def _watch(self, call: Call, raw: bytes) -> AsyncGenerator[bytes, None]:
        message = parsed(pb.WatchRequest, raw)
        interval = INTERVAL
        if message.HasField("interval"):
            interval = message.interval.seconds + message.interval.nanos / 1e9
            if not 0 <= interval <= LONGEST:
                raise _bad("interval", f"must be 0 to {LONGEST:g} seconds, got {interval:g}")
        watched = self._queue.watch(call.tenant.name, _id(message.id), max(interval, SHORTEST))
        async with aclosing(watched) as changes:
            async for job in changes:
                call.kind = job.kind
                yield pb.WatchResponse(job=job).SerializeToString()

    async def _cancel(self, call: Call, raw: bytes) -> bytes:
        job = await self._queue.cancel(call.tenant.name, _id(parsed(pb.CancelRequest, raw).id))
        call.kind = job.kind
        return pb.CancelResponse(job=job).SerializeToString()

    async def _delete(self, call: Call, raw: bytes) -> bytes:
        await self._queue.delete(call.tenant.name, _id(parsed(pb.DeleteRequest, raw).id))
        return pb.DeleteResponse().SerializeToString()


def _id(id: str) -> str:
    """The id of a job, if it can be one. Raises `Refused`, NOT_FOUND."""
    if not _ID.fullmatch(id):
        raise not_found(id)
    return id


def _bad(field: str, message: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "REQUEST", f"{field}: {message}")


def _fingerprint(spec: Spec, options: Options) -> str:
    """SHA-256 of all that was asked for."""
    return hashlib.sha256(repr((spec.digest(), sorted(asdict(options).items()))).encode()).hexdigest()
