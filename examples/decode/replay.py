"""One policy's way through a trace, step by step: decide, admit, decode, meet at the barrier.

Every rank runs this, with its own share of the slots. Rank 0 decides, too, as a data-parallel engine's coordinator
does; so decisions are on the path of a step, and are timed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from equipoise.benchmarks.decode_replay.traces import Trace
from equipoise.solvers.baselines.decode_snapshot import Rule

from .batch import Batch
from .model import BLOCK, HEAD, VOCABULARY, Cache, Decoder

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """The engine. queue: clients beyond the slots. threads: of each worker's torch. limit: seconds for any wait."""

    workers: int
    slots: int
    queue: int
    width: int
    layers: int
    device: str
    threads: int
    limit: float

    def on(self, rank: int) -> torch.device:
        """The device of a worker: with several CUDA devices, each has its own in turn."""
        if self.device != "cuda":
            return torch.device(self.device)
        return torch.device("cuda", rank % torch.cuda.device_count())


@dataclass(frozen=True)
class Record:
    """What happened. Seconds and tokens; steps and requests are numbered from 0.

    step, decide: (steps,) the whole step, and its decision with the broadcast of the plan. work, wait: (steps,
    workers) from the plan until a worker had its tokens, prompts placed on the way, and from then until the last one
    had. cpu: (steps, workers) processor time of the work. load: (steps, workers) resident tokens. made: (steps,)
    tokens. queue: (steps,) requests left waiting. waited: (requests,) steps until admission.
    """

    step: Floats
    decide: Floats
    work: Floats
    wait: Floats
    cpu: Floats
    load: Floats
    made: Floats
    queue: Floats
    waited: NDArray[np.int64]


class Replay:
    """A trace under one rule, on one rank. rule: to be set on rank 0; elsewhere None, since plans come from there."""

    rule: Rule | None = None

    def __init__(self, setting: Setting, rank: int, model: Decoder, trace: Trace) -> None:
        self._setting, self._rank, self._model, self.trace = setting, rank, model, trace
        device = setting.on(rank)
        length = np.sort(trace.tokens + trace.output)[::-1]
        blocks = int((-(-length[: setting.slots] // BLOCK)).sum())  # the longest together would still fit
        heads = setting.width // HEAD
        self._cache = Cache(setting.layers, heads, setting.slots, int(length[0]), blocks, device)
        self.batch = Batch(trace, setting.workers, setting.slots, setting.queue, device)
        self._token = torch.zeros(setting.slots, dtype=torch.int64, device=device)
        self._times: list[tuple[float, ...]] = []
        self._state: list[list[float]] = []
        self.batch.arrive()

    @property
    def done(self) -> bool:
        """Whether every request was served."""
        return self.batch.done

    def step(self) -> None:
        """One step of all workers. Raises `RuntimeError` where a plan or a rank goes wrong, or keeps others waiting."""
        started = time.perf_counter()
        plan = self._decided() if self.batch.undecided else None
        decided, processor = time.perf_counter(), time.process_time()
        for worker, place, request in [] if plan is None else self.batch.seat(plan):
            if worker == self._rank:
                self._cache.place(place, int(self.trace.tokens[request]))
                self._token[place] = request % VOCABULARY
        loads = self.batch.loads()
        made = self._decode()
        worked, processor = time.perf_counter(), time.process_time() - processor
        self._meet(made)
        met = time.perf_counter()
        self._state.append([*loads.tolist(), self.batch.seated, len(self.batch.waiting)])
        for worker, place in self.batch.advance():
            if worker == self._rank:
                self._cache.release(place)
        self.batch.arrive()
        spans = decided - started, worked - decided, met - worked
        self._times.append((time.perf_counter() - started, *spans, processor))

    def _decided(self) -> torch.Tensor:
        plan = torch.empty(len(self.batch.waiting), dtype=torch.int64)
        if self.rule is not None:
            plan = torch.from_numpy(self.rule(self.batch.snapshot()).copy())
        dist.broadcast(plan, 0)
        return plan

    def _decode(self) -> int:
        """A token for each request of this worker: how many these are."""
        places = np.flatnonzero(self.batch.slots[self._rank].cpu().numpy() >= 0)
        if len(places):
            reading = self._cache.grow(places)
            token = self._model(self._token[reading.places], self._cache, reading)
            self._token[reading.places] = token
        if self._token.is_cuda:
            torch.cuda.synchronize(self._token.device)
        return len(places)

    def _meet(self, made: int) -> None:
        """The barrier: nobody goes on before all workers have their tokens, and all count the same."""
        total = torch.tensor([made])
        dist.all_reduce(total)
        if int(total) != self.batch.seated:
            raise RuntimeError(f"step {self.batch.step}: {int(total)} tokens for {self.batch.seated} requests")

    def record(self) -> Record:
        """What happened, with the times of all ranks, on every rank."""
        mine = torch.tensor(self._times, dtype=torch.float64)
        times = [torch.empty_like(mine) for _ in range(self._setting.workers)]
        dist.all_gather(times, mine)
        all_times = torch.stack(times).numpy()  # (workers, steps, spans)
        state = np.array(self._state)
        waited = self.batch.admitted - self.batch.joined
        return Record(
            step=all_times[0, :, 0], decide=all_times[0, :, 1], work=all_times[:, :, 2].T,
            wait=all_times[:, :, 3].T, cpu=all_times[:, :, 4].T,
            load=state[:, :-2], made=state[:, -2], queue=state[:, -1], waited=waited,
        )  # fmt: skip


TURN = 4
"""Steps that a replay takes before the next one has its turn."""


def in_turns(replays: Sequence[Replay]) -> list[Record]:
    """All replays to their end, some steps at a time: whatever else the machine does then meets all of them alike."""
    while any(not replay.done for replay in replays):
        for replay in replays:
            for _ in range(TURN):
                if not replay.done:
                    replay.step()
    return [replay.record() for replay in replays]
