"""Servers for tests: in this process, on a loop of their own in a thread, or as a process of their own."""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from equipoise.server.app import Server
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import failures, wire
from equipoise.server.settings import ServerSettings
from equipoise.solvers.control import Options
from equipoise.specs.spec import Spec

START = 120.0
"""Seconds that a server has to start, machine code compiled on the way included."""


class Running:
    """A server in a thread. `call` runs a coroutine on its loop."""

    def __init__(self, settings: ServerSettings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.server = self.call(self._made(settings))
        self.address = self.server.addresses[0]

    async def _made(self, settings: ServerSettings) -> Server:
        server = Server(settings)
        await server.start()
        return server

    def call(self, work: Any) -> Any:
        """Run a coroutine on the server's loop, and wait for what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START)

    def stop(self, drain: float = 5.0) -> None:
        """Drain the server, and end its loop."""
        self.call(self.server.drain(drain))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextmanager
def running(data: Path, **settings: Any) -> Iterator[Running]:
    """A server on a free port of the loopback, or where `listen` says, its data in a folder."""
    chosen = {"listen": ["127.0.0.1:0"], "workers": 1, "log_level": "warning", **settings}
    server = Running(ServerSettings(data=data, **chosen))
    try:
        yield server
    finally:
        server.stop()


class Raw:
    """Calls a server as any client of the protocol would, without the Python client."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.channel = grpc.insecure_channel(address)
        self.metadata = () if token is None else (("authorization", f"Bearer {token}"),)

    def close(self) -> None:
        """Hang up."""
        self.channel.close()

    def send(self, rpc: str, raw: bytes, timeout: float = 60.0) -> bytes:
        """The bytes that a unary call answers with. Raises what the status tells of."""
        call = self.channel.unary_unary(f"/equipoise.v1.{rpc}")
        try:
            return call(raw, timeout=timeout, metadata=self.metadata)
        except grpc.RpcError as error:
            raise failures.from_call(error) from None

    def solve(self, spec: Spec[Any], timeout: float = 60.0, **options: Any) -> pb.SolveResponse:
        """The answer to a spec."""
        return pb.SolveResponse.FromString(self.send("Balancer/Solve", solve_request(spec, **options), timeout))


def solve_request(spec: Spec[Any], **options: Any) -> bytes:
    """A serialised SolveRequest."""
    chosen = wire.options(Options(**options)).SerializeToString()
    return b"".join([*wire.field(1, wire.spec_fields(spec)), *wire.field(2, [chosen])])


class Conversation:
    """A session as bytes: what is sent, and what comes back."""

    def __init__(self, raw: Raw) -> None:
        self._requests = queue.SimpleQueue[bytes | None]()
        call = raw.channel.stream_stream("/equipoise.v1.Balancer/Session")
        self.call = call(iter(self._requests.get, None), timeout=60.0, metadata=raw.metadata)

    def say(self, message: pb.SessionRequest) -> pb.SessionResponse:
        """The response to a request. Raises what the status of the stream tells of."""
        self._requests.put(message.SerializeToString())
        try:
            return pb.SessionResponse.FromString(next(self.call))
        except grpc.RpcError as error:
            raise failures.from_call(error) from None

    def open(self, spec: Spec[Any], **options: Any) -> pb.SessionResponse:
        """Begin the session."""
        message = pb.SolveRequest.FromString(solve_request(spec, **options))
        return self.say(pb.SessionRequest(open=pb.SessionRequest.Open(spec=message.spec, options=message.options)))

    def step(self, revision: int, **changes: Any) -> pb.SessionResponse:
        """Change some fields and solve."""
        document = pb.Document.FromString(b"".join(wire.document(changes)))
        return self.say(pb.SessionRequest(step=pb.SessionRequest.Step(changes=document, revision=revision)))

    def end(self) -> None:
        """Say that nothing more comes."""
        self._requests.put(None)


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`equipoise serve` in a process of its own: its address, and the process, which is killed at the end."""
    command = [sys.executable, "-m", "equipoise", "serve", "--data", str(folder), "--workers", "1", *flags]
    known = {name: value for name, value in os.environ.items() if not name.startswith("EQUIPOISE_")}
    environment = known | {"PYTHONSAFEPATH": "1"}
    log = (folder / "log").open("a")
    with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            assert told.startswith("ready on "), (folder / "log").read_text()
            yield told.removeprefix("ready on ").strip().split(", ")[0], process
        finally:
            process.kill()
