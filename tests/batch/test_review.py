"""What people and machines do to a batch that nobody asks for: closed streams, odd links, odd names, long waits."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import equipoise as eq
from equipoise.clients.batch.outputs import Output
from equipoise.clients.batch.sources import sources
from equipoise.clients.batch.tasks import Task
from equipoise.clients.cli.batch_progress import Stand
from equipoise.clients.cli.batch_summary import print_summary
from equipoise.clients.failures import INTERRUPTED
from equipoise.server.protocol.failures import Refused
from equipoise.server.workers import chunks_pb2 as pb
from equipoise.server.workers import process
from equipoise.server.workers.pool import STARTS, Workers
from equipoise.server.workers.process import WorkerProcess
from equipoise.server.workers.worker import Worker, WorkerLost, WorkerSettings

from .results import OPTIONS, failed, solved, task
from .test_chunks import chunk, odd, reasons, results, run, running, text
from .test_command import COMMAND, SECONDS, WITH_ODD_WORKERS, lines, rollouts
from .test_many import children
from .test_many import rollouts as spec

SLOW = """
from equipoise.server.workers import child, chunks
child._warm = lambda: None
chunks.SLICE = -1.0
child.main()
"""
"""A worker for which every task takes longer than a chunk may."""
NAPPING = """
import time
from equipoise.server.workers import child, chunks
child._warm, child.READING = lambda: None, 0.5
class Solver(chunks.Solver):
    def solve(self, *arguments):
        time.sleep(0.5)
        return super().solve(*arguments)
chunks.Solver = Solver
child.main()
"""
"""A worker that takes half a second for each task."""
NEVER_READY = (sys.executable, "-c", "import time; time.sleep(600)")


def write_specs(path: Path, count: int = 4) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(f"{json.dumps(rollouts(number))}\n" for number in range(count)))
    return path


def until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


# -- sources -----------------------------------------------------------------------------------------------------------


def test_a_link_to_itself_costs_no_file_that_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "fine.yaml").write_text("kind: rollout_budgets")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "loop").symlink_to("loop")
    fine, loop = sources([str(tmp_path)])
    assert isinstance(fine, Task) and Path(fine.place.file).name == "fine.yaml"
    assert not isinstance(loop, Task) and Path(loop.place.file).name == "loop.yaml"


def test_what_is_written_through_a_link_is_no_source_of_the_same_batch(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("tasks.jsonl", "real.jsonl", "real.jsonl.failures.jsonl"):
        (tmp_path / "data" / name).write_text("{}\n")
    out = tmp_path / "out.jsonl"
    out.symlink_to("data/real.jsonl")
    found = [item.place.file for item in sources([str(tmp_path / "data" / "*.jsonl")], leave_out=[out])]
    assert [Path(file).name for file in found] == ["tasks.jsonl"]


# -- streams that are closed, or that nobody reads ---------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["closed", "broken"])
def test_ctrl_c_stops_a_batch_whose_messages_nobody_reads_and_leaves_nothing_but_results(
    stream: str, tmp_path: Path
) -> None:
    specs, out = write_specs(tmp_path / "specs.jsonl").read_bytes(), tmp_path / "out.jsonl"
    reading, writing = os.pipe()
    nobody, messages = os.pipe()
    os.close(nobody)
    redirect = 'exec "$@" 2>&-' if stream == "closed" else 'exec "$@"'
    command = ["sh", "-c", redirect, "sh", *COMMAND, "-", "-o", str(out), "--workers", "1"]
    batch = subprocess.Popen(command, stdin=reading, stdout=subprocess.DEVNULL, stderr=messages)
    try:
        os.write(writing, specs)
        until(lambda: len(out.read_bytes().splitlines()) == 4 if out.exists() else False)
        batch.send_signal(signal.SIGINT)
        assert batch.wait(SECONDS) == INTERRUPTED
        assert len(lines(out)) == 4
    finally:
        batch.kill()
        batch.wait()
        for end in (reading, writing, messages):
            os.close(end)


def test_closed_streams_are_empty_ones(tmp_path: Path) -> None:
    write_specs(tmp_path / "specs.jsonl")
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND, "specs.jsonl", "-", "-o", "out.jsonl"]
    assert subprocess.run([*command, "--workers", "1"], cwd=tmp_path, timeout=SECONDS).returncode == 0
    assert len(lines(tmp_path / "out.jsonl")) == 4


def test_who_quits_at_once_gets_the_cursor_back() -> None:
    script = "from equipoise.clients.cli.interrupt import quit_at_once; quit_at_once()"
    ours, its = os.openpty()
    ended = subprocess.run([sys.executable, "-P", "-c", script], stderr=its, timeout=SECONDS)
    os.close(its)
    assert ended.returncode == INTERRUPTED and os.read(ours, 100) == b"\x1b[?25h"
    os.close(ours)


# -- the summary -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["k" * 10_000, "a\nb\x1b[31m" * 50])
def test_no_kind_and_no_terminal_cuts_a_figure_of_the_summary_off(kind: str, tmp_path: Path) -> None:
    with Output(tmp_path / "out.jsonl", OPTIONS) as output:
        output.add([solved(task(1))])
        output.fail([failed(task(number), kind=kind) for number in range(2, 12_347)])
        output.close(finished=True)
    stream = io.StringIO()
    print_summary(Console(file=stream, width=40, force_terminal=True, color_system=None), output, Stand(), [], False)
    table = stream.getvalue().split("\n\n")[1].splitlines()
    assert len(table) == 3 and all(len(line) < 150 for line in table)
    assert sum("12,345" in line for line in table) == 1 and "…" in "".join(table)


def test_what_was_solved_again_counts_once_in_a_batch_that_is_stopped(tmp_path: Path) -> None:
    out, now = tmp_path / "out.jsonl", [task(1, "changed"), task(2), task(5, "changed")]
    with Output(out, OPTIONS) as output:
        output.add([solved(task(1)), solved(task(2))])
        output.fail([failed(task(5))])
    stopped = Output(out, OPTIONS, resume=True)
    stopped.add([solved(one) for one in now if not stopped.has(one)])
    stopped.close(finished=False)
    assert (stopped.tally.plans, stopped.tally.failures, stopped.tally.exit_code) == (3, 0, 0)


# -- workers -----------------------------------------------------------------------------------------------------------


def starts_failing(numbers: range, count: int = 1) -> tuple[Workers, list[int]]:
    """Workers of which some starts fail, by number, the first being 0; and the numbers of all starts."""
    starts = list[int]()

    async def start() -> Worker:
        starts.append(len(starts))
        if starts[-1] in numbers:
            raise WorkerLost("killed as it started")
        return await WorkerProcess.start(WorkerSettings())

    return Workers(count, start=start, on_lost=lambda _: None), starts


@pytest.mark.parametrize(("failing", "ended"), [(range(1, 3), False), (range(1, 1000), True)])
def test_a_worker_that_is_killed_as_it_starts_ends_no_batch_until_it_is_hopeless(
    failing: range, ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "COMMAND", odd())
    once = f"dies-once {tmp_path / 'marker'}"

    async def scenario() -> None:
        workers, starts = starts_failing(failing)
        await workers.start()
        try:
            asked = chunk([text("one"), text(once), text("two")])
            if ended:
                with pytest.raises(Refused, match="there is no worker: killed as it started"):
                    await results(workers, asked)
                assert len(starts) == 1 + STARTS
            else:
                assert reasons(await results(workers, asked)) == ["one", once, "two"]
        finally:
            await workers.stop(0.0)

    run(scenario())


def test_a_batch_that_stood_still_for_long_blames_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-P", "-c", NAPPING))
    names = ["one", "two", "three"]

    async def scenario() -> None:
        async with running() as workers:
            asyncio.get_running_loop().call_later(0.2, time.sleep, 5.0)  # as Ctrl-Z does
            assert reasons(await results(workers, chunk([text(name) for name in names], time_limit=0.1))) == names

    run(scenario())


@pytest.mark.parametrize("count", [1, 2])
def test_a_chunk_that_takes_too_long_is_shared_and_every_task_told_once(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-P", "-c", SLOW))
    names = [f"t{number}" for number in range(9)]

    async def scenario() -> None:
        async with running(count) as workers:
            assert reasons(await results(workers, chunk([text(name) for name in names]))) == names
            told, given = list[pb.Result](), list[pb.Chunk]()
            await workers.solve_all(chunk([text(name) for name in names]), told.extend, given.append)
            returned = [item.source.removesuffix(".yaml") for part in reversed(given) for item in part.items]
            assert reasons(told) + returned == names
            assert bool(returned) == (count > 1)
            assert all(part.options == given[0].options and part.check for part in given)

    run(scenario())


def test_what_a_lost_worker_had_in_hand_is_shared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", odd())
    names = ["dies", *(f"t{number}" for number in range(8))]

    async def scenario() -> None:
        async with running(2, on_lost=lambda _: None) as workers:
            told, given = list[pb.Result](), list[pb.Chunk]()
            await workers.solve_all(chunk([text(name) for name in names]), told.extend, given.append)
            returned = [item.source.removesuffix(".yaml") for part in reversed(given) for item in part.items]
            assert returned and ["WORKER_LOST", *names[1:]] == reasons(told) + returned

    run(scenario())


def test_every_spec_of_chunks_that_were_shared_has_its_one_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_specs(tmp_path / "specs.jsonl", 300), tmp_path / "out.jsonl"
    slow = (sys.executable, "-P", "-c", SLOW)
    script = WITH_ODD_WORKERS.format(command=slow)
    command = [sys.executable, "-P", "-c", script, "batch", str(source), "-o", str(out), "--workers", "2"]
    assert subprocess.run(command, capture_output=True, timeout=SECONDS).returncode == 0
    found = {line["line"]: line["name"] for line in lines(out)}
    assert len(lines(out)) == 300
    assert found == {number + 1: f"task {number}" for number in range(300)}

    monkeypatch.setattr(process, "COMMAND", slow)
    specs = [spec(number) for number in range(100)]
    assert list(eq.solve_many(specs, workers=2)) == [eq.solve(one) for one in specs]
    found = dict(eq.solve_many(specs, workers=2, ordered=False))
    assert [found[number] for number in range(100)] == [eq.solve(one) for one in specs]


# -- from Python -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("last", ["raises", "is none"])
def test_what_is_wrong_with_the_specs_is_raised_after_the_plans_of_those_before(ordered: bool, last: str) -> None:
    def broken() -> Iterator[Any]:
        yield from map(spec, range(5))
        if last == "raises":
            raise LookupError("mine")
        yield "spec.yaml"

    got = list[Any]()
    with pytest.raises(LookupError if last == "raises" else eq.SpecError):
        got.extend(eq.solve_many(broken(), workers=1, ordered=ordered))
    got = got if ordered else [plan for _, plan in got]
    assert got == [eq.solve(spec(number)) for number in range(5)]


@pytest.mark.parametrize("memory", ["4GiB", 4e9, True])
def test_memory_that_is_no_number_of_bytes_is_refused_at_once(memory: Any) -> None:
    with pytest.raises(eq.UnsupportedError, match="worker memory: must be a whole number of bytes"):
        eq.solve_many([spec(1)], worker_memory=memory)


def test_ctrl_c_while_workers_start_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", NEVER_READY)
    before = children()
    presses = threading.Timer(0.5, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    presses.start()
    with pytest.raises(KeyboardInterrupt):
        list(eq.solve_many([spec(1)], workers=2))
    presses.join()
    assert children() == before
    assert all(thread.name != "equipoise-workers" for thread in threading.enumerate())


def test_a_process_that_was_forked_is_told_that_its_plans_never_come() -> None:
    script = """
import os
import equipoise as eq
def specs():
    while True:
        yield eq.RolloutBudgets(prompts={"successes": [1, 2], "trials": [4, 4]}, total=8)
if __name__ == "__main__":
    plans = eq.solve_many(specs(), workers=1)
    next(plans)
    if child := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    try:
        for plan in plans:
            pass
    except eq.ServiceError as error:
        os._exit(7 if "forked" in str(error) else 8)
"""
    assert subprocess.run([sys.executable, "-P", "-c", script], timeout=SECONDS).returncode == 7
