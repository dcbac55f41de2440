"""How much of the ideal `equipoise batch` reaches on small specs of mixed kinds, and where the rest goes.

    python benchmarks/batch_speed.py speed parts          # 10,000 specs on one worker and on two; one process, in parts
    python benchmarks/batch_speed.py stop                 # killed in the middle and gone on with: the same results
    python benchmarks/batch_speed.py ray                  # the same on a local Ray of two, one actor killed
    python benchmarks/batch_speed.py stream --specs 1000000     # the memory of a batch of very many, and of its resume

The ideal is the seconds of all certificates, shared out to the workers. What a worker does beside its solves (reading,
validating, checking, writing) is no part of it, nor is the check that `--check` asks for. *All* counts from the start
of the command to its end, *from first to last* the time between the first result and the last; *at work* is the share
of that in which workers do something, be it beside the solve: parts as measured in one process, before.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))  # a script's own folder, which PYTHONSAFEPATH leaves out
from batch_runs import Look, Run, descendants, documents, results, run_batch, write_documents

from equipoise.solvers.check import check
from equipoise.solvers.control import Options
from equipoise.solvers.records import line, plan_document
from equipoise.solvers.solve import Solver
from equipoise.specs.reading import TaskDocument

MIB = 2**20
PARTS = "parse", "validate", "solve", "beside, in it", "check", "write"
SOLVE, CHECK = PARTS.index("solve"), PARTS.index("check")
_console = Console(width=160)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def speed(folder: Path, specs: int, seed: int, means: Sequence[float], engine: str) -> None:
    """Whole batches, on one worker and on two, with the check of plans and without."""
    columns = (
        *("mean solve, ms", "check", "workers", "wall, s", "specs/s", "ideal, s", "all", "from first to last"),
        *("at work", "driver, µs/spec", "driver, MiB at 10 %", "50 %", "100 %"),
    )
    for mean in means:
        table = _table(f"{specs:,} specs, seed {seed}, engine {engine}", *columns)
        source = folder / f"specs-{mean}.jsonl"
        write_documents(source, specs, mean, seed)
        each = _parts(300, mean, seed)
        for checked in (True, False):
            beside = each.sum() - each[SOLVE] - (0.0 if checked else each[CHECK])
            for workers in (1, 2):
                out = folder / f"{mean}-{checked}-{workers}.jsonl"
                flag = "--check" if checked else "--no-check"
                run = run_batch(source, out, flag, "--workers", str(workers), "--engine", engine)
                ideal = run.solving / workers
                memory = [f"{run.resident_at(share) / MIB:.0f}" for share in (0.1, 0.5, 1.0)]
                parts_of = ideal / run.wall, ideal / run.working, (ideal + beside * specs / workers) / run.working
                shares = [f"{100 * share:.0f} %" for share in parts_of]
                table.add_row(
                    *(f"{1e3 * run.solving / specs:.2f}", "yes" if checked else "no", str(workers)),
                    *(f"{run.wall:.1f}", f"{specs / run.working:,.0f}", f"{ideal:.1f}", *shares),
                    *(f"{1e6 * run.cpu / specs:.0f}", *memory),
                )
                assert run.summary["solved"] == specs, run.summary
                out.unlink()
        _console.print(table)


def parts(specs: int, seed: int, means: Sequence[float]) -> None:
    """What a spec takes in a worker, part by part, in this process."""
    table = _table(f"A spec in a worker, µs, {specs:,} specs", "mean solve, ms", *PARTS)
    for mean in means:
        each = _parts(specs, mean, seed)
        table.add_row(f"{1e3 * each[SOLVE]:.2f}", *(f"{1e6 * seconds:,.0f}" for seconds in each))
    _console.print(table)


def _parts(specs: int, mean: float, seed: int) -> NDArray[np.float64]:
    """Seconds that each part takes, on average."""
    taken = [_taken(text) for text in [*documents(20, mean, seed), *documents(specs, mean, seed)]]
    return np.mean(taken[20:], axis=0)  # the first warm everything up


def _taken(text: str) -> tuple[float, ...]:
    """Seconds of each part of one spec."""
    clock = time.perf_counter
    began = clock()
    document = TaskDocument(text, "specs.jsonl", 1)
    parsed = clock()
    spec = document.spec(None)
    validated = clock()
    plan = Solver(Options()).solve(spec)
    solved = clock()
    found = check(spec, plan)
    checked = clock()
    line(plan_document(plan, spec, found)).encode()
    written = clock()
    seconds = plan.certificate.seconds
    rest = solved - validated - seconds
    return parsed - began, validated - parsed, seconds, rest, checked - solved, written - checked


def stop(folder: Path, specs: int, seed: int, mean: float) -> None:
    """A batch that is killed in the middle and gone on with, beside one that is not."""
    source, whole, halved = folder / "specs.jsonl", folder / "whole.jsonl", folder / "halved.jsonl"
    write_documents(source, specs, mean, seed)
    run_batch(source, whole)
    size = whole.stat().st_size
    killed = run_batch(source, halved, until=lambda look, _: look.written > size // 2)
    there = halved.read_bytes().count(b"\n")
    resumed = run_batch(source, halved, "--resume")
    _console.print(
        f"kill -9 with {there:,} of {specs:,} results written (exit code {killed.code}); --resume solved "
        f"{resumed.summary['of_this_run']:,} more; results the same but for seconds: "
        f"{results(halved) == results(whole)}; none twice"
    )


def ray(folder: Path, specs: int, seed: int, mean: float) -> None:
    """A batch on a local Ray of two workers, one of which is killed, beside one of the local engine."""
    source, local, elsewhere = folder / "specs.jsonl", folder / "local.jsonl", folder / "ray.jsonl"
    write_documents(source, specs, mean, seed)
    first = run_batch(source, local, "--workers", "2")
    size, dead = local.stat().st_size, list[int]()

    def kill_one(look: Look, driver: int) -> bool:
        if not dead and look.written > size // 2:
            dead.extend([pid for pid in descendants(driver) if _title(pid) == "ray::Slot.ask"][:1])  # at work
            for pid in dead:
                os.kill(pid, signal.SIGKILL)
        return False

    second = run_batch(source, elsewhere, "--workers", "2", "--engine", "ray", until=kill_one)
    _console.print(
        f"Ray, {len(dead)} of 2 actors killed: {second.summary['workers_lost']} workers lost, "
        f"{second.summary['solved']:,} of {specs:,} solved; results the same as of the local engine but for seconds: "
        f"{results(elsewhere) == results(local)}; {first.wall:.1f} s local, {second.wall:.1f} s on Ray"
    )


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""


STREAM = """
import sys
from pathlib import Path
tiny = [text.rstrip() for text in Path(sys.argv[1]).read_text().splitlines()]
for number in range(int(sys.argv[2])):
    print(tiny[number % len(tiny)].replace('"name": "spec', '"name": "%d, as' % number))
"""


def stream(folder: Path, specs: int, seed: int) -> None:
    """Very many tiny specs through a pipe: memory of the driver as they come, and of a resume that finds all there."""
    base, out = folder / "tiny.jsonl", folder / "many.jsonl"
    base.write_text("".join(f"{text}\n" for text in documents(4000, 0.0, seed) if '"rollout_budgets"' in text))
    table = _table(
        f"{specs:,} specs through a pipe",
        *(
            "run",
            "wall, s",
            "specs/s",
            "driver, µs/spec",
            "MiB at 1 %",
            "10 %",
            "25 %",
            "50 %",
            "75 %",
            "100 %",
            "most",
        ),
    )
    for name, options in (("all of them", ("--no-check",)), ("--resume, none left", ("--no-check", "--resume"))):
        command = [sys.executable, "-c", STREAM, str(base), str(specs)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as maker:
            run = run_batch("-", out, *options, stdin=maker.stdout)
        table.add_row(
            name, f"{run.wall:.0f}", f"{specs / run.wall:,.0f}", f"{1e6 * run.cpu / specs:.0f}", *_memory(run)
        )
        assert run.summary["solved"] == specs, run.summary
    _console.print(table)
    _console.print(f"the output: {out.stat().st_size / MIB:,.0f} MiB")


def _memory(run: Run) -> list[str]:
    """At some shares of the time that the driver ran, and at most."""
    looks = [
        run.looks[min(int(share * len(run.looks)), len(run.looks) - 1)] for share in (0.01, 0.1, 0.25, 0.5, 0.75, 1)
    ]
    return [f"{bytes_ / MIB:.0f}" for bytes_ in (*(look.resident for look in looks), run.peak)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("what", nargs="+", choices=("speed", "parts", "stop", "ray", "stream"))
    arguments.add_argument("--specs", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--mean-ms", type=float, nargs="+", default=[0.2, 2.0, 10.0], help="of solve times, about")
    arguments.add_argument("--engine", choices=("local", "ray"), default="local", help="of `speed`")
    asked = arguments.parse_args()
    began = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what in asked.what:
            match what:
                case "speed":
                    speed(folder, asked.specs, asked.seed, asked.mean_ms, asked.engine)
                case "parts":
                    parts(min(asked.specs, 1000), asked.seed, asked.mean_ms)
                case "stop":
                    stop(folder, asked.specs, asked.seed, asked.mean_ms[0])
                case "ray":
                    ray(folder, asked.specs, asked.seed, asked.mean_ms[0])
                case _:
                    stream(folder, asked.specs, asked.seed)
    _console.print(json.dumps({"load when it began": round(began, 2), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
