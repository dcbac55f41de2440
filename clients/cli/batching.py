"""What `equipoise batch` does: runs the batch, shows how far it has come, and tells what came of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ...server.workers.engines import Engine, checked
from ...solvers.control import Options
from ...solvers.solve import Solver
from ..batch.driver import Batch
from ..batch.outputs import Output
from ..batch.plots import draw, require
from ..batch.sharing import open_many
from ..batch.sources import Sources
from ..failures import INTERRUPTED
from .batch_progress import BatchProgress, Stand
from .batch_summary import print_summary, summary_document
from .interrupt import notify, quit_at_once

NOTICE = "\nstopping; what is done is kept, and --resume goes on. Ctrl-C again to quit at once\n"


@dataclass(frozen=True)
class BatchCommand:
    """What the command line asks for."""

    sources: Sequence[str]
    out: Path
    options: Options
    resume: bool
    retry_failed: bool
    check: bool
    engine: Engine
    address: str | None
    workers: int | None
    worker_memory: int | None
    plot: Path | None

    def run(self, console: Console, aside: Console, json: bool) -> int:
        """Run the batch and print what came of it. Returns the exit code: that of the worst of its specs."""
        Solver(self.options)  # refuses what no spec could be solved with
        checked(self.engine, self.workers, self.worker_memory, self.address)
        if self.plot is not None:
            require(self.plot)
        sources = Sources(self.sources, leave_out=[self.out])
        with Output(self.out, self._promised(), self.resume, self.retry_failed) as output:
            stand = Stand()
            stand.count(sources)
            with BatchProgress(aside, stand):
                finished = asyncio.run(self._finished(sources, output, stand))
                stand.closing = True
                output.close(finished)
        plots = draw(output.path, self.plot) if self.plot is not None and finished else []
        if json:
            print(summary_document(output, stand, plots, not finished), flush=True)
        else:
            print_summary(console, output, stand, plots, not finished)
        return max(output.tally.exit_code, 0 if finished else INTERRUPTED)

    def _promised(self) -> dict[str, Any]:
        """All that results depend on, for a later run to be held against."""
        return {**asdict(self.options), "check": self.check}

    async def _finished(self, sources: Sources, output: Output, stand: Stand) -> bool:
        """Whether every spec has its outcome, or somebody has stopped the batch before."""

        def lost(_: str) -> None:
            stand.lost += 1

        workers = open_many(self.engine, self.workers, self.worker_memory, self.address, lost)
        stand.workers = workers.count
        batch = Batch(sources, output, workers, self.options, check=self.check, elsewhere=self.engine == "ray")
        stand.batch = batch
        running = asyncio.ensure_future(batch.run())
        try:
            with _stoppable(running):
                await running
        except asyncio.CancelledError:
            return False
        finally:
            await workers.stop(0.0)
        return True


@contextmanager
def _stoppable(running: asyncio.Future[None]) -> Iterator[None]:
    """Ctrl-C, and the signal by which a machine is taken down, cancel what runs; a second one ends the process."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopped:
            quit_at_once()
        stopped.append(True)
        running.cancel()
        notify(NOTICE)

    stopped = list[bool]()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
