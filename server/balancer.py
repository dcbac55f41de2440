"""The service `equipoise.v1.Balancer`: answers while the caller waits."""

from __future__ import annotations

from functools import cache, partial
from importlib.resources import files

import grpc

from ..specs.schema import json_schema
from ..specs.spec import kind, kinds
from .calls import SHORT, Gate
from .engine import Call, Engine, parsed
from .protocol import equipoise_pb2 as pb
from .protocol import wire
from .sessions import Sessions

NAME = "equipoise.v1.Balancer"


class Balancer:
    """Handlers of the service."""

    def __init__(self, engine: Engine, sessions: Sessions) -> None:
        self._engine, self._sessions = engine, sessions

    def handlers(self, gate: Gate) -> grpc.GenericRpcHandler:
        """What a gRPC server calls for this service."""
        methods = {
            "Solve": gate.unary(f"{NAME}/Solve", self._engine.solve),
            "Session": gate.conversation(f"{NAME}/Session", self._sessions.converse),
            "Check": gate.unary(f"{NAME}/Check", self._check),
            "ListKinds": gate.unary(f"{NAME}/ListKinds", self._list_kinds, SHORT),
            "DescribeKind": gate.unary(f"{NAME}/DescribeKind", self._describe_kind, SHORT),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def _check(self, call: Call, raw: bytes) -> bytes:
        """A plan is judged in a worker process: how long that takes, and how much memory, is for a stranger to say."""
        engine = self._engine
        with engine.room.taking(len(raw)):
            with engine.admission.taking("Check", len(raw)) as work:
                await engine.in_thread(call, work, partial(self._read_check, call, raw))
            return await engine.check(call, raw)

    def _read_check(self, call: Call, raw: bytes) -> None:
        """Whether a worker is to see the request at all. Raises `SpecError`."""
        message = parsed(pb.CheckRequest, raw)
        limits = self._engine.limits(call)
        call.kind = wire.read_task(message.spec, limits).kind
        wire.read_plan(message.plan, limits)

    async def _list_kinds(self, call: Call, raw: bytes) -> bytes:
        parsed(pb.ListKindsRequest, raw)
        return _listed()

    async def _describe_kind(self, call: Call, raw: bytes) -> bytes:
        name = parsed(pb.DescribeKindRequest, raw).kind
        kind(name)  # raises for a name that is none
        return _described(name)


@cache
def _listed() -> bytes:
    summaries = {name: (spec.__doc__ or "").partition("\n")[0] for name, spec in kinds().items()}
    entries = [pb.ListKindsResponse.Kind(name=name, summary=summary) for name, summary in summaries.items()]
    return pb.ListKindsResponse(kinds=entries).SerializeToString()


@cache
def _described(name: str) -> bytes:
    import json

    example = files("equipoise.specs") / "examples" / "minimal" / f"{name}.yaml"
    schema = json.dumps(json_schema(name), allow_nan=False)
    return pb.DescribeKindResponse(spec_schema=schema, example=example.read_text("utf-8")).SerializeToString()
