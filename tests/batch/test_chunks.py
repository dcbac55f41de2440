"""Chunks of tasks in worker processes: every task gets its own result, whatever becomes of a worker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.server.protocol import wire
from equipoise.server.protocol.failures import from_status
from equipoise.server.workers import chunks_pb2 as pb
from equipoise.server.workers import process
from equipoise.server.workers.pool import Workers
from equipoise.solvers.control import Options

SECONDS = 90.0
"""What any wait here may take; only a failure takes that long."""
EXAMPLES = sorted((Path(eq.__file__).parent / "specs" / "examples" / "minimal").glob("*.yaml"))

ODD = """
import os, signal, time
from equipoise.server.workers import child, chunks
child.READING = {reading}
child._warm = lambda: None
class Solver(chunks.Solver):
    def solve(self, spec, *rest, **more):
        match (spec.name or "").split():
            case ["dies", *_]:
                os.kill(os.getpid(), signal.SIGSEGV)
            case ["dies-once", marker]:
                if not os.path.exists(marker):
                    open(marker, "w").close()
                    os.kill(os.getpid(), signal.SIGKILL)
            case ["hoards", *_]:
                raise MemoryError
            case ["hangs", *_]:
                time.sleep(600)
            case ["breaks", *_]:
                raise ZeroDivisionError("a bug")
        return super().solve(spec, *rest, **more)
chunks.Solver = Solver
child.main()
"""
"""A worker that does what the name of a spec says."""


def odd(reading: float = 60.0) -> tuple[str, ...]:
    """The command of such a worker."""
    return (sys.executable, "-P", "-c", ODD.format(reading=reading))


def spec(name: str | None = None) -> eq.RolloutBudgets:
    return eq.RolloutBudgets(prompts={"successes": [1, 2], "trials": [4, 4]}, total=8, name=name)


def text(name: str) -> pb.Item:
    return pb.Item(
        text=f"kind: rollout_budgets\nname: {name}\nprompts: {{successes: [1, 2], trials: [4, 4]}}\ntotal: 8",
        source=f"{name}.yaml",
    )


def chunk(items: Sequence[pb.Item], form: pb.Form = pb.FORM_RECORD, **options: Any) -> pb.Chunk:
    return pb.Chunk(options=wire.options(Options(**options)), form=form, check=True, items=items)


@asynccontextmanager
async def running(count: int = 1, **settings: Any) -> AsyncIterator[Workers]:
    workers = Workers(count, **settings)
    await workers.start()
    try:
        yield workers
    finally:
        await workers.stop(0.0)


async def results(workers: Workers, asked: pb.Chunk) -> list[pb.Result]:
    told = list[pb.Result]()
    await workers.solve_all(asked, told.extend)
    return told


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, SECONDS))


def reasons(found: Sequence[pb.Result]) -> list[str]:
    """How each task ended: its name for a plan, else what is wrong."""
    return [
        result.name
        if result.WhichOneof("outcome") == "record"
        else str(getattr(error(result), "reason", error(result)))
        for result in found
    ]


def error(result: pb.Result) -> eq.EquipoiseError:
    assert result.WhichOneof("outcome") == "failure", result
    return from_status(result.failure)


@pytest.fixture
def odd_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", odd())


def test_results_come_in_order_and_say_what_solve_says() -> None:
    async def scenario() -> None:
        items = [pb.Item(text=path.read_text(), source=str(path), folder=os.fsencode(path.parent)) for path in EXAMPLES]
        async with running() as workers:
            records = await results(workers, chunk(items * 3))
            plans = await results(workers, chunk(items * 3, pb.FORM_PLAN))
        specs = [eq.load(path) for path in EXAMPLES] * 3
        assert [result.kind for result in records] == [result.kind for result in plans] == [s.kind for s in specs]
        for asked, result in zip(specs, plans, strict=True):
            plan = wire.read_plan(result.plan, wire.Limits())
            assert plan == eq.solve(asked)
            assert eq.check(asked, plan).ok

    run(scenario())


def test_bad_tasks_are_told_by_file_and_line_and_stop_nothing() -> None:
    bad = [
        pb.Item(text="kind: [", source="broken.yaml"),
        pb.Item(text='{"kind": "rollout_budgets", "name": "five", "total": -1}', source="all.jsonl", line=5),
        pb.Item(text="kind: nothing_known\nname: strange", source="strange.yaml"),
        pb.Item(text="{kind: rollout_budgets}", source="all.jsonl", line=7),
    ]

    async def scenario() -> None:
        async with running() as workers:
            found = await results(workers, chunk([text("first"), *bad, text("last")]))
        assert [result.name for result in found] == ["first", "", "five", "strange", "", "last"]
        assert [result.WhichOneof("outcome") for result in found] == ["record", *["failure"] * 4, "record"]
        told = [str(error(result)).partition(" ")[0] for result in found[1:-1]]
        assert told == ["broken.yaml:1:", "all.jsonl:5:", "strange.yaml:2:", "all.jsonl:7:"] or told[2].startswith(
            "strange"
        )

    run(scenario())


def test_infeasible_tasks_name_the_fields_that_clash() -> None:
    asked = pb.Item(
        text="kind: rollout_budgets\nprompts: {successes: [1], trials: [4]}\ntotal: 1000", source="infeasible.yaml"
    )

    async def scenario() -> None:
        async with running() as workers:
            (found,) = await results(workers, chunk([asked]))
        assert found.WhichOneof("outcome") == "infeasible" and "total" in found.infeasible.fields

    run(scenario())


@pytest.mark.usefixtures("odd_workers")
def test_a_task_that_kills_its_worker_fails_alone() -> None:
    async def scenario() -> None:
        async with running(2) as workers:
            found = await results(
                workers, chunk([text("one"), text("dies"), text("two"), text("dies too"), text("three")])
            )
            assert reasons(found) == ["one", "WORKER_LOST", "two", "WORKER_LOST", "three"]
            assert workers.lost >= 2
            assert reasons(await results(workers, chunk([text("four")]))) == ["four"]

    run(scenario())


@pytest.mark.usefixtures("odd_workers")
def test_a_worker_that_is_killed_from_outside_costs_no_task(tmp_path: Path) -> None:
    async def scenario() -> None:
        once, alone = f"dies-once {tmp_path / 'one'}", f"dies-once {tmp_path / 'two'}"
        async with running() as workers:
            assert reasons(await results(workers, chunk([text("one"), text(once), text("two")]))) == [
                "one",
                once,
                "two",
            ]
            assert reasons(await results(workers, chunk([text(alone)]))) == [alone]
            assert workers.lost == 2

    run(scenario())


@pytest.mark.usefixtures("odd_workers")
def test_a_task_that_needs_more_memory_than_there_is_fails_alone() -> None:
    async def scenario() -> None:
        async with running() as workers:
            assert reasons(await results(workers, chunk([text("hoards")]))) == ["WORKER_OUT_OF_MEMORY"]
            assert workers.lost == 1  # it would need as much again
            found = await results(workers, chunk([text("one"), text("hoards"), text("two")]))
            assert reasons(found) == ["one", "WORKER_OUT_OF_MEMORY", "two"]

    run(scenario())


def test_an_array_beyond_the_memory_of_a_worker_fails_alone(tmp_path: Path) -> None:
    with open(tmp_path / "scores.npy", "wb") as stream:  # a file of holes
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (2**17, 2**10)})
        stream.truncate(stream.tell() + 8 * 2**27)
    large = pb.Item(
        text="kind: expert_assignment\nname: large\nscores: {file: scores.npy}\nexperts_per_token: 8",
        source="large.yaml",
        folder=os.fsencode(tmp_path),
    )

    async def scenario() -> None:
        async with running(memory=2**30) as workers:
            assert reasons(await results(workers, chunk([text("one"), large, text("two")]))) == [
                "one",
                "WORKER_OUT_OF_MEMORY",
                "two",
            ]

    run(scenario())


def test_a_task_that_never_ends_is_ended_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", odd(reading=1.0))

    async def scenario() -> None:
        async with running() as workers:
            found = await results(workers, chunk([text("one"), text("hangs"), text("two")], time_limit=0.2))
        assert [result.WhichOneof("outcome") for result in found] == ["record", "failure", "record"]
        assert isinstance(error(found[1]), eq.SolveTimeout)

    run(scenario())


@pytest.mark.usefixtures("odd_workers")
def test_a_bug_is_told_as_one_and_stops_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with running() as workers:
            found = await results(workers, chunk([text("one"), text("breaks"), text("two")]))
        assert [result.WhichOneof("outcome") for result in found] == ["record", "failure", "record"]
        assert "ZeroDivisionError: a bug" in str(error(found[1]))

    run(scenario())
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.usefixtures("odd_workers")
def test_results_before_a_slow_task_are_told_while_it_runs() -> None:
    async def scenario() -> None:
        async with running() as workers:
            told = list[pb.Result]()
            asked = chunk([text("one"), text("two"), text("hangs"), text("three")])
            solving = asyncio.ensure_future(workers.solve_all(asked, told.extend))
            while len(told) < 2:
                await asyncio.sleep(0.01)
            assert reasons(told) == ["one", "two"]
            solving.cancel()  # which frees the worker, though it sleeps
            with pytest.raises(asyncio.CancelledError):
                await solving
            assert reasons(await results(workers, chunk([text("four")]))) == ["four"]
            assert len(told) == 2

    run(scenario())


@pytest.mark.parametrize(
    "failure", [OSError("no space left"), eq.SpecError("no space left"), ValueError("no space left")]
)
def test_who_cannot_keep_results_is_told_and_there_is_a_worker_again(failure: Exception) -> None:
    def full(_: Sequence[pb.Result]) -> None:
        raise failure

    async def scenario() -> None:
        async with running() as workers:
            with pytest.raises(type(failure), match="no space left"):
                await workers.solve_all(chunk([text("one"), text("two")]), full)
            assert reasons(await results(workers, chunk([text("three")]))) == ["three"]

    run(scenario())


def test_those_who_bound_what_they_ask_themselves_are_not_refused() -> None:
    async def scenario() -> None:
        names = [f"t{number}" for number in range(1100)]
        async with running(most_waiting=None) as workers:
            found = await asyncio.gather(*(results(workers, chunk([text(name)])) for name in names))
        assert [result.name for part in found for result in part] == names

    run(scenario())


def test_workers_killed_again_and_again_lose_no_result() -> None:
    """Sixty tasks in chunks of six, on two workers of which one is killed every now and then."""

    async def scenario() -> None:
        random = np.random.default_rng(7)
        async with running(2, on_lost=lambda reason: None) as workers:
            names = [[f"t{part}-{number}" for number in range(6)] for part in range(10)]
            solving = asyncio.gather(*(results(workers, chunk([text(name) for name in part])) for part in names))
            kills = 0
            while not solving.done():
                await asyncio.sleep(random.uniform(0.0, 0.05))
                if kills < 2 and (pids := workers.pids()):
                    os.kill(int(random.choice(pids)), signal.SIGKILL)
                    kills += 1
            found = await solving
        assert [[result.name for result in part] for part in found] == names
        outcomes = {result.WhichOneof("outcome") for part in found for result in part}
        assert outcomes == {"record"}

    run(scenario())
