"""How a batch of a million specs would go on up to 1,000 workers: by simulation, from costs measured on this machine.

    python benchmarks/batch_plan.py                       # the table, and docs/batch-plan.png and .svg
    python benchmarks/batch_plan.py --measure             # the same from costs measured now
    python benchmarks/batch_plan.py --validate --measure --engine local --specs 5000      # predicted beside measured

Solve times are lognormal; `--sigma 1.5` makes the longest of a million some hundred times the mean, and a time limit of
an hour cuts them off. `--results OUT.jsonl` takes those of a batch that was run, in their shape but not their mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))  # a script's own folder, which PYTHONSAFEPATH leaves out
from batch_runs import LIGHT_MS, documents, run_batch, write_documents
from batch_simulation import Costs, Outlook, Simulation, lognormal

from equipoise.clients.batch.driver import Batch
from equipoise.clients.batch.outputs import Output
from equipoise.clients.batch.pace import MOST
from equipoise.clients.batch.sources import Sources
from equipoise.server.protocol import wire
from equipoise.server.workers import chunks_pb2 as pb
from equipoise.server.workers.engines import Engine, cores, open_workers
from equipoise.server.workers.pool import Workers
from equipoise.solvers.control import Options

BANDWIDTH = 1.25e9
"""Bytes per second of the driver's network: 10 Gbit/s, which nothing here measures."""
MEASURED = {
    "local": Costs(50e-6, 0.15e-3, 1.6e-3, 0.83e-3, 1.4, 2050.0, BANDWIDTH),
    "ray": Costs(80e-6, 1.5e-3, 4.0e-3, 0.83e-3, 1.6, 2050.0, BANDWIDTH),
}
"""By engine, on two shared x86-64 cores."""
WORKERS, MEANS = (1, 10, 100, 1000), (1e-3, 1e-2, 1e-1, 1.0, 10.0)
Shape = Callable[[int, float, int], NDArray[np.float64]]
"""Solve times: how many, of which mean, by a seed."""
_console = Console(width=160)


# -- measuring -------------------------------------------------------------------------------------------------------


class Echo(Workers):
    """Workers that have a result ready, and cost nothing: what is left is the driver."""

    def __init__(self, result: pb.Result) -> None:
        super().__init__(2)
        self._results = [result] * MOST

    async def start(self) -> None:
        """Nothing is to be started."""

    async def solve_all(
        self,
        chunk: pb.Chunk,
        told: Callable[[Sequence[pb.Result]], None],
        back: Callable[[pb.Chunk], None] | None = None,
    ) -> None:
        """Give all results at once."""
        await asyncio.sleep(0)
        told(self._results[: len(chunk.items)])


def measured(engine: Engine, specs: int, seed: int) -> Costs:
    """What the parts of a batch cost on this machine, with one worker."""
    texts = list(documents(specs, LIGHT_MS, seed))
    items = [pb.Item(source="specs.jsonl", line=number, text=text) for number, text in enumerate(texts, 1)]
    alone, together, start, results = asyncio.run(_talks(engine, items))
    solve = statistics.fmean(result.record.seconds for result in results)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "specs.jsonl", Path(folder) / "out.jsonl"
        source.write_text("".join(f"{text}\n" for text in texts))
        with Output(out, {}) as output:
            batch = Batch(Sources([source]), output, Echo(results[0]), Options())
            began = time.process_time()
            asyncio.run(batch.run())
            keeping = (time.process_time() - began) / specs
    size = statistics.fmean(len(text) + len(result.record.body) for text, result in zip(texts, results, strict=True))
    return Costs(
        driver_spec=keeping + together.processor,
        driver_chunk=max(alone.processor - together.processor, 0.0),
        hand_over=max(alone.clock - together.clock - alone.processor, 0.0),
        worker_spec=together.clock - solve,
        worker_start=start,
        spec_bytes=size,
        bandwidth=BANDWIDTH,
    )


@dataclass(frozen=True)
class Took:
    """Seconds for a spec: of the driver's processor, and by the clock."""

    processor: float
    clock: float


async def _talks(engine: Engine, items: Sequence[pb.Item]) -> tuple[Took, Took, float, list[pb.Result]]:
    """What specs take one by one, each a chunk, and in the largest chunks; the seconds that a worker takes to start;
    and the results."""
    workers = open_workers(engine, 1)
    began = time.perf_counter()
    await workers.start()
    start = time.perf_counter() - began
    results = list[pb.Result]()

    async def talk(size: int) -> Took:
        results.clear()
        chunks = [
            pb.Chunk(
                options=wire.options(Options()), form=pb.FORM_RECORD, check=True, items=items[start : start + size]
            )
            for start in range(0, len(items), size)
        ]
        processor, clock = time.process_time(), time.perf_counter()
        for chunk in chunks:
            await workers.solve_all(chunk, results.extend)
        return Took((time.process_time() - processor) / len(items), (time.perf_counter() - clock) / len(items))

    try:
        await talk(MOST)  # warms everything up
        return await talk(1), await talk(MOST), start, results
    finally:
        await workers.stop(0.0)


# -- what follows from it --------------------------------------------------------------------------------------------


def plan(
    specs: int, costs: Costs, shape: Shape, failures: float, chunks: Sequence[int], seed: int
) -> dict[tuple[int, float], Outlook]:
    """The batch on any number of workers, for any mean solve time. chunks: fixed sizes to hold the pace against."""
    best = ("best fixed chunk", "of the ideal") if chunks else ()
    table = _table(
        f"{specs:,} specs",
        *("mean solve", "workers", "ideal", "wall", "of the ideal", "driver busy", "specs a chunk", "workers lost"),
        *("what costs most", *best),
    )
    found = dict[tuple[int, float], Outlook]()
    for mean in MEANS:
        seconds = shape(specs, mean, seed)
        for workers in WORKERS:
            simulated = Simulation(seconds, workers, costs, failures, seed=seed).run()
            found[workers, mean] = simulated
            fixed = {size: Simulation(seconds, workers, costs, failures, size, seed).run().solving for size in chunks}
            size = max(fixed, key=lambda size: fixed[size], default=0)
            table.add_row(
                *(_duration(mean), f"{workers:,}", _duration(seconds.sum() / workers), _duration(simulated.wall)),
                *(f"{100 * simulated.solving:.0f} %", f"{100 * simulated.busy:.0f} %", f"{simulated.chunk:,.0f}"),
                *(f"{simulated.lost:,}", simulated.limit),
                *((str(size), f"{100 * fixed[size]:.0f} %") if chunks else ()),
            )
    _console.print(table)
    return found


def validate(specs: int, costs: Costs, means: Sequence[float], seed: int) -> None:
    """What the simulation says of batches on this machine, beside what they take."""
    table = _table(
        f"{specs:,} specs, from the first result to the last, {cores()} cores",
        *("mean solve, ms", "workers", "predicted, s", "measured, s", "predicted / measured", "specs a chunk"),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for mean in means:
            source = folder / f"{mean}.jsonl"
            write_documents(source, specs, mean, seed)
            seconds = np.zeros(0)
            for workers in (1, 2):
                out = folder / f"{mean}-{workers}.jsonl"
                run = run_batch(source, out, "--workers", str(workers))
                if workers == 1:  # alone on its core: what solves take where nothing else runs
                    documents_ = map(json.loads, out.read_text().splitlines())
                    seconds = np.array([document["certificate"]["seconds"] for document in documents_])
                slower = costs.sharing(cores(), workers, float(seconds.mean()))
                shared = replace(costs, worker_spec=costs.worker_spec * slower)
                simulated = Simulation(seconds * slower, workers, shared, seed=seed).run()
                table.add_row(
                    *(f"{1e3 * seconds.mean():.2f}", str(workers), f"{simulated.wall:.2f}", f"{run.working:.2f}"),
                    *(f"{simulated.wall / run.working:.2f}", f"{simulated.chunk:.0f}"),
                )
    _console.print(table)


def shape(sigma: float, results: Path | None) -> Shape:
    """Lognormal solve times, or those of a batch that was run, drawn again and again."""
    if results is None:
        return lambda count, mean, seed: lognormal(count, mean, sigma, seed)
    there = np.array([json.loads(text)["certificate"]["seconds"] for text in results.read_text().splitlines()])

    def drawn(count: int, mean: float, seed: int) -> NDArray[np.float64]:
        return np.random.default_rng(seed).choice(there, count) * (mean / there.mean())

    return drawn


def draw(found: dict[tuple[int, float], Outlook], path: Path) -> None:
    """The share of the ideal, and how busy the driver is, as PNG and SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "equipoise"
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True, constrained_layout=True)
    for number, workers in enumerate(WORKERS):
        colour = mpl.colormaps["viridis"](0.85 - 0.25 * number)
        label = f"{workers:,} worker{'s' if workers > 1 else ''}"
        for panel, what in zip(axes, ("solving", "busy"), strict=True):
            values = [100 * getattr(found[workers, mean], what) for mean in MEANS]
            panel.plot(MEANS, values, marker="o", markersize=4, color=colour, label=label)
    for panel, title in zip(axes, ("Solving, % of all workers' time", "Driver busy, % of the time"), strict=True):
        panel.set_xscale("log")
        panel.set_xticks(MEANS, [_duration(mean) for mean in MEANS])
        panel.minorticks_off()
        panel.set_ylim(0, 105)
        panel.set_xlabel("mean solve time of a spec")
        panel.set_title(title, loc="left", fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.25)
    axes[1].legend(frameon=False, fontsize=9, loc="upper right")
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=110, metadata={"Date": None} if suffix == ".svg" else None)


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size * (0.9995 if unit == "s" else 2):
            return f"{seconds / size:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--specs", type=int, default=1_000_000)
    arguments.add_argument("--engine", choices=("local", "ray"), default="ray", help="whose costs")
    arguments.add_argument("--measure", action="store_true", help="measure the costs now, on this machine")
    arguments.add_argument("--validate", action="store_true", help="hold the simulation against batches of --specs")
    arguments.add_argument("--sigma", type=float, default=1.5, help="of the logarithm of solve times")
    arguments.add_argument(
        "--results", type=Path, help="a .jsonl that a batch has written: the shape of its solve times"
    )
    arguments.add_argument("--failures", type=float, default=1.0, help="of a worker, per day")
    arguments.add_argument("--chunks", type=int, nargs="*", default=[], help="fixed sizes to hold the pace against")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--plot", type=Path, default=Path("docs/batch-plan.png"))
    for cost in fields(Costs):
        arguments.add_argument(f"--{cost.name.replace('_', '-')}", type=float, help="instead of what was measured")
    asked = arguments.parse_args()
    costs = measured(asked.engine, 2000, asked.seed) if asked.measure else MEASURED[asked.engine]
    costs = replace(costs, **{name: value for name in asdict(costs) if (value := getattr(asked, name)) is not None})
    _console.print(f"{asked.engine}: " + ", ".join(f"{name}={value:.3g}" for name, value in asdict(costs).items()))
    if asked.validate:
        validate(asked.specs, costs, (0.2, 2.0, 10.0), asked.seed)
        return
    found = plan(
        asked.specs, costs, shape(asked.sigma, asked.results), asked.failures / 86400, asked.chunks, asked.seed
    )
    draw(found, asked.plot)


if __name__ == "__main__":
    main()
