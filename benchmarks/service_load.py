"""What the service costs, and what it does under more load than it can bear, beside a bare gRPC echo in the same run.

    python benchmarks/service_load.py                     # the overhead of calls, and throughput
    python benchmarks/service_load.py --overload 60       # and 60 seconds at ten times the capacity
    python benchmarks/service_load.py --profile           # and what each part of a tiny solve takes

Overhead is the time from call to plan in the caller's hand, less the `seconds` of the certificate; each call asks
something else, so that the cache answers none. The echo returns the same bytes, from a server of its own that does
nothing else, through the same library. Calls alternate between the two. Medians in milliseconds. *Bytes* is the same
call from bytes that are ready to bytes that nobody reads: the service alone, without the Python client. *Floor* is a
server that reads and validates the spec and writes a plan that it has ready, called by code that writes the spec and
reads the plan, both with the product's own: what is left when all else costs nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import equipoise as eq
from equipoise.clients.remote import messages
from equipoise.server.answers import content_key
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import wire
from equipoise.solvers.control import Options
from equipoise.solvers.solve import Solver

LARGE = [("grpc.max_receive_message_length", 2**26), ("grpc.max_send_message_length", 2**26)]
CALLERS = 64

ECHO = """
import asyncio, grpc
async def main():
    async def echo(raw, context):
        return raw
    async def stream(requests, context):
        while (raw := await context.read()) is not grpc.aio.EOF:
            await context.write(raw)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 2**26)])
    methods = {
        "Once": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", methods),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()
asyncio.run(main())
"""

FLOOR = """
import asyncio, grpc, sys
import equipoise as eq
from equipoise.server.protocol import equipoise_pb2 as pb, wire
from equipoise.specs.sources import Folder
async def main():
    limits, plans, state = wire.Limits(), {}, {}
    def answer(number, spec):
        if spec.kind not in plans:
            plans[spec.kind] = eq.solve(spec)
        return b"".join(wire.field(number, wire.plan_fields(plans[spec.kind])))
    async def once(raw, context):
        return answer(1, wire.read_task(pb.SolveRequest.FromString(raw).spec, limits))
    async def stream(requests, context):
        spec = None
        while (raw := await context.read()) is not grpc.aio.EOF:
            message = pb.SessionRequest.FromString(raw)
            if spec is None:
                spec = wire.read_task(message.open.spec, limits)
            else:
                spec = spec.replaced(wire.read_document(message.step.changes, limits), Folder(None))
            await context.write(answer(2, spec))
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 2**26)])
    methods = {
        "Once": grpc.unary_unary_rpc_method_handler(once),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Floor", methods),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()
asyncio.run(main())
"""

SERVE = """
import asyncio, sys
from pathlib import Path
from equipoise.server.app import Server
from equipoise.server.settings import ServerSettings
async def main():
    server = Server(ServerSettings(data=Path(sys.argv[1]), listen=["127.0.0.1:0"]))
    await server.start()
    print(server.addresses[0], flush=True)
    await server.wait()
asyncio.run(main())
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own, and the line that it prints when it is ready."""
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip(), child
        finally:
            child.terminate()


def rollouts(rng: np.random.Generator, prompts: int, number: int) -> eq.RolloutBudgets:
    """A step of some prompts, another one for each number."""
    return eq.RolloutBudgets(
        prompts={"successes": rng.integers(0, 9, prompts), "trials": np.full(prompts, 8)}, total=8 * prompts + number
    )


def scores(rng: np.random.Generator) -> eq.ExpertAssignment:
    """4096 tokens and 64 experts: 1 MiB of scores."""
    return eq.ExpertAssignment(scores=rng.standard_normal((4096, 64)).astype(np.float32), experts_per_token=8)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = run()
    return time.perf_counter() - started, found


@dataclass
class Overhead:
    """Times of one kind of call, in seconds."""

    name: str
    target: float
    echo: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    solver: list[float] = field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        columns = self.echo, self.floor, self.raw, self.ours, self.solver
        echo, *others, solver = (float(np.median(times)) for times in columns)
        shown = (f"{1e3 * number:.3f}" for number in (echo, *others, solver))
        return self.name, *shown, *(f"{number / echo:.2f}" for number in others), str(self.target)


def calls(client: eq.Client, channels: Channels, name: str, target: float, specs: list[Any]) -> Overhead:
    """Solves one after the other, each beside an echo of its request."""
    once, solve = channels.echo.unary_unary("/Echo/Once"), channels.ours.unary_unary("/equipoise.v1.Balancer/Solve")
    least = channels.floor.unary_unary("/Floor/Once")
    found = Overhead(name, target)

    def translated(spec: Any) -> Any:
        operation = messages.solve(spec, Options())
        return operation.read(least(operation.request, timeout=10))

    for number, spec in enumerate(specs):
        request = messages.solve(spec.replace(name="bytes"), Options()).request
        echo, _ = timed(lambda: once(request, timeout=10))  # noqa: B023
        floor, _ = timed(lambda: translated(spec))  # noqa: B023
        raw, answer = timed(lambda: solve(request, timeout=10))  # noqa: B023
        seconds, plan = timed(lambda: client.solve(spec))  # noqa: B023
        if number >= len(specs) // 10:  # the first warm the connections up
            found.echo.append(echo)
            found.floor.append(floor)
            found.raw.append(raw - pb.SolveResponse.FromString(answer).plan.certificate.seconds)
            found.ours.append(seconds - plan.certificate.seconds)
            found.solver.append(plan.certificate.seconds)
    return found


@dataclass(frozen=True)
class Channels:
    """Connections without a client: to the echo, to what only translates, and to the service."""

    echo: grpc.Channel
    floor: grpc.Channel
    ours: grpc.Channel


class Talk:
    """A stream on which each message is answered by one."""

    def __init__(self, channel: grpc.Channel, path: str) -> None:
        self._sent = queue.SimpleQueue[bytes | None]()
        self._answers = channel.stream_stream(path)(iter(self._sent.get, None))

    def say(self, raw: bytes) -> bytes:
        """The answer to a message."""
        self._sent.put(raw)
        return next(self._answers)

    def end(self) -> None:
        """Say no more."""
        self._sent.put(None)


def steps(client: eq.Client, channels: Channels, number: int) -> Overhead:
    """Steps of a session, each beside an echo on a stream."""
    rng, found = np.random.default_rng(3), Overhead("step", 1.5)
    spec = rollouts(rng, 16, 0)
    echo, ours = Talk(channels.echo, "/Echo/Stream"), Talk(channels.ours, messages.SESSION)
    least, read = Talk(channels.floor, "/Floor/Stream"), messages.plan_reader(spec)
    for talk in (ours, least):
        talk.say(messages.session_open(spec, Options()))

    def translated(changes: dict[str, Any], step: int) -> Any:
        answer = messages.session_response(least.say(messages.session_step(changes, step)))
        return messages.outcome(answer, read)

    with client.session(spec) as session:
        for step in range(number):
            changes = {"total": 128 + step % 97}
            request = messages.session_step(changes, step)
            wire_time, _ = timed(lambda: echo.say(request))  # noqa: B023
            floor, _ = timed(lambda: translated(changes, step))  # noqa: B023
            raw, answer = timed(lambda: ours.say(request))  # noqa: B023
            seconds, plan = timed(lambda: session.step(**changes))  # noqa: B023
            if step >= number // 10:
                found.echo.append(wire_time)
                found.floor.append(floor)
                found.raw.append(raw - pb.SessionResponse.FromString(answer).plan.certificate.seconds)
                found.ours.append(seconds - plan.certificate.seconds)
                found.solver.append(plan.certificate.seconds)
    for talk in (echo, least, ours):
        talk.end()
    return found


def profile() -> Table:
    """What each part of a tiny solve takes when it is done again and again, its code and data in the caches."""
    spec = rollouts(np.random.default_rng(0), 16, 0)
    operation, limits, options = messages.solve(spec, Options()), wire.Limits(), Options()
    received, plan = pb.SolveRequest.FromString(operation.request).spec, eq.solve(spec)
    answer = b"".join(wire.field(1, wire.plan_fields(plan)))
    parts: dict[str, Callable[[], Any]] = {
        "client: the request as bytes": lambda: messages.solve(spec, options),
        "server: parse and validate": lambda: wire.read_task(
            pb.SolveRequest.FromString(operation.request).spec, limits
        ),
        "server: key of the cache": lambda: content_key("tenant", received, options),
        "server: solve": lambda: Solver(options).solve(spec, search=False),
        "server: the answer as bytes": lambda: b"".join(wire.field(1, wire.plan_fields(plan))),
        "client: the plan from bytes": lambda: operation.read(answer),
    }
    table = Table("part", "µs, warm", title="A tiny solve in parts")
    table.columns[1].justify = "right"
    for name, run in parts.items():
        table.add_row(name, f"{1e6 * float(np.median([timed(run)[0] for _ in range(1000)])):.0f}")
    return table


async def rate(work: Callable[[], Any], seconds: float) -> float:
    """Calls per second that so many callers get answered, each asking again as soon as it has its answer."""
    done, end = 0, time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await work()
            done += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return done / seconds


async def throughput(address: str, echo_address: str, seconds: float) -> tuple[float, float]:
    """Solves per second of a tiny spec, and echoes of its request."""
    rng = np.random.default_rng(4)
    specs = iter([rollouts(rng, 16, number % 97) for number in range(int(5_000 * (seconds + 1.0)))])
    request = messages.solve(rollouts(rng, 16, 0), Options()).request
    async with eq.connect_async(address) as client, grpc.aio.insecure_channel(echo_address, options=LARGE) as channel:
        once = channel.unary_unary("/Echo/Once")

        async def echo() -> None:
            await once(request)

        async def solve() -> None:
            await client.solve(next(specs))

        await rate(echo, 1.0)
        await rate(solve, 1.0)
        return await rate(solve, seconds), await rate(echo, seconds)


@dataclass
class Overload:
    """What became of calls that were made at a steady rate, whatever became of those before."""

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: int = 0
    memory: list[float] = field(default_factory=list)


def resident(pid: int) -> float:
    """MiB of memory that a process and its children hold."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    lines = (Path(f"/proc/{child}/status").read_text().splitlines() for child in pids)
    return sum(int(line.split()[1]) for found in lines for line in found if line.startswith("VmRSS")) / 1024


async def overload(address: str, pid: int, seconds: float) -> tuple[float, float, Overload, float]:
    """Capacity, p99 without load, what ten times the capacity does, and the rate in the second after it."""
    rng = np.random.default_rng(5)
    prompts = {"successes": rng.integers(0, 9, 64), "trials": np.full(64, 8)}
    spec = eq.RolloutBudgets(prompts=prompts, total=2**21, most=2**16, name="????????")
    request = messages.solve(spec, Options()).request

    def fresh(number: int) -> bytes:
        """A request of 1 kB that takes a thread some 15 ms; another one for each number, which is its name."""
        return request.replace(b"????????", b"%08d" % number)

    counter = iter(range(10**9))
    async with grpc.aio.insecure_channel(address, options=LARGE) as channel:
        solve = channel.unary_unary("/equipoise.v1.Balancer/Solve")

        async def once() -> float:
            request = fresh(next(counter))
            started = time.perf_counter()
            await solve(request, timeout=30)
            return time.perf_counter() - started

        for _ in range(20):
            await once()
        alone = [await once() for _ in range(200)]
        end, done = time.perf_counter() + 3.0, 0

        async def busy() -> None:
            nonlocal done
            while time.perf_counter() < end:
                try:
                    await once()
                    done += 1
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.005)

        await asyncio.gather(*(busy() for _ in range(4)))
        capacity = done / 3.0
        found = await _flood(once, solve, 10 * capacity, seconds, pid)
        end, done = time.perf_counter() + 1.0, 0
        await asyncio.gather(*(busy() for _ in range(4)))
        return capacity, float(np.quantile(alone, 0.99)), found, float(done)


async def _flood(once: Callable[[], Any], solve: Any, rate: float, seconds: float, pid: int) -> Overload:
    found, tasks = Overload(), set[asyncio.Task[None]]()

    async def one() -> None:
        started = time.perf_counter()
        try:
            found.accepted.append(await once())
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                found.refused.append(time.perf_counter() - started)
            else:
                found.failed += 1

    started, number = time.perf_counter(), 0
    while (now := time.perf_counter() - started) < seconds:
        while number < now * rate:
            task = asyncio.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            if number % int(rate) == 0:
                found.memory.append(resident(pid))
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--calls", type=int, default=1000, help="calls of each kind")
    arguments.add_argument("--seconds", type=float, default=5.0, help="seconds of each throughput")
    arguments.add_argument("--overload", type=float, default=0.0, help="seconds at ten times the capacity; 0 for none")
    arguments.add_argument("--profile", action="store_true", help="what each part of a tiny solve takes")
    asked = arguments.parse_args()
    console, rng = Console(), np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        process(ECHO) as (port, _),
        process(FLOOR) as (floor_port, _),
        process(SERVE, folder) as (address, server),
    ):
        echo_address = f"127.0.0.1:{port}"
        heads = ("call", *("echo", "floor", "bytes", "client", "solver"), *("floor", "bytes", "client"), "≤")
        table = Table(*heads, title="Overhead in ms, less the solver's time; then as multiples of the echo", box=SIMPLE)
        for column in table.columns:
            column.no_wrap = True
        for column in table.columns[1:]:
            column.justify = "right"
        with (
            eq.connect(address) as client,
            grpc.insecure_channel(echo_address, options=LARGE) as echo,
            grpc.insecure_channel(f"127.0.0.1:{floor_port}", options=LARGE) as floor,
            grpc.insecure_channel(address, options=LARGE) as ours,
        ):
            channels = Channels(echo, floor, ours)
            tiny = [rollouts(rng, 16, number % 97) for number in range(asked.calls)]
            table.add_row(*calls(client, channels, "tiny", 1.5, tiny).row())
            table.add_row(*steps(client, channels, asked.calls).row())
            matrices = [scores(rng) for _ in range(max(asked.calls // 10, 10))]
            table.add_row(*calls(client, channels, "1 MiB", 1.3, matrices).row())
        console.print(table)
        if asked.profile:
            console.print(profile())
        solves, echoes = asyncio.run(throughput(address, echo_address, asked.seconds))
        console.print(
            f"{CALLERS} callers: {solves:,.0f} solves/s, {echoes:,.0f} echoes/s: {solves / echoes:.0%} (target ≥ 25 %)"
        )
        if asked.overload:
            capacity, alone, found, after = asyncio.run(overload(address, server.pid, asked.overload))
            accepted, refused = (np.quantile(times or [np.nan], 0.99) for times in (found.accepted, found.refused))
            console.print(
                f"capacity {capacity:.0f}/s; unloaded p99 {1e3 * alone:.1f} ms\n"
                f"ten times that for {asked.overload:g} s: {len(found.accepted):,} accepted, "
                f"p99 {1e3 * accepted:.1f} ms ({accepted / alone:.2f} × unloaded); "
                f"{len(found.refused):,} refused, p99 {1e3 * refused:.1f} ms; {found.failed} failed\n"
                f"memory {found.memory[0]:.0f} MiB at first, {max(found.memory):.0f} MiB at most; "
                f"{after:.0f} solves in the second after"
            )


if __name__ == "__main__":
    main()
