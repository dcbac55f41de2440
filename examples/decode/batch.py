"""Who waits, who sits where, and how far each request is: the state of a replay, the same on every rank.

A closed loop: as many clients as there are slots, and some more that keep a queue; each sends its next request once
the last one is done. So the workers stay full, and how fast they are decides how soon all is done. Ranks keep this
state each for itself and exchange the plans alone, since the operators that change it give the same everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.benchmarks.decode_replay.traces import Trace
from equipoise.kernels.decode import admit, project_loads
from equipoise.solvers.baselines.decode_snapshot import Snapshot

Integers = NDArray[np.int64]


class Batch:
    """All requests of a trace, in the order in which they come.

    slots (workers, places): request ids, −1: free. tokens, remaining (requests,): resident tokens, and steps to go.
    These are on the device. waiting: ids, the oldest first. joined, admitted (requests,): steps, −1: not yet.
    """

    def __init__(self, trace: Trace, workers: int, places: int, queue: int, device: torch.device) -> None:
        self.slots = torch.full((workers, places), -1, device=device)
        self.tokens = torch.from_numpy(trace.tokens.copy()).to(device)
        self.remaining = torch.from_numpy(trace.output.copy()).to(device)
        self.waiting: list[int] = []
        self.joined, self.admitted = np.full(len(trace), -1), np.full(len(trace), -1)
        self.step, self.seated, self._clients = 0, 0, workers * places + queue
        self._worker = torch.arange(workers, device=device).repeat_interleave(places)
        self._now = torch.zeros(1, dtype=torch.int64, device=device)

    def arrive(self) -> None:
        """Clients whose request is done send the next one."""
        sent = int(np.count_nonzero(self.joined >= 0))
        number = min(len(self.joined) - sent, self._clients - self.seated - len(self.waiting))
        self.waiting.extend(range(sent, sent + number))
        self.joined[sent : sent + number] = self.step

    @property
    def done(self) -> bool:
        """Whether every request was served."""
        return not self.seated and not self.waiting and bool(self.joined[-1] >= 0)

    @property
    def undecided(self) -> bool:
        """Whether somebody waits while a slot is free."""
        return bool(self.waiting) and self.seated < self.slots.numel()

    def snapshot(self) -> Snapshot:
        """What a router sees of it: resident tokens and waits, and of nobody how long it will stay."""
        slots, waiting = self.slots.cpu().numpy(), np.array(self.waiting)
        tokens = self.tokens.cpu().numpy()
        return Snapshot(
            slots=np.full(len(slots), slots.shape[1]),
            worker=np.flatnonzero(slots >= 0) // slots.shape[1],
            tokens=tokens[slots[slots >= 0]],
            remaining=None,
            waiting_tokens=tokens[waiting],
            waiting_remaining=None,
            waited=self.step - self.joined[waiting],
        )

    def seat(self, worker: Tensor) -> list[tuple[int, int, int]]:
        """Carry out a plan, (waiting,) int64: worker, place and id of everybody admitted. Raises `RuntimeError`."""
        device = self.slots.device
        self.slots, place, refused = admit(self.slots, torch.tensor(self.waiting, device=device), worker.to(device))
        if refused:
            raise RuntimeError(
                f"step {self.step}: the plan gives {int(refused)} requests to workers without a free slot"
            )
        rows = zip(worker.tolist(), place.tolist(), self.waiting, strict=True)
        admitted = [row for row in rows if row[0] >= 0]
        if not admitted and not self.seated:
            raise RuntimeError(f"step {self.step}: the plan admits nobody although all workers are idle")
        self.admitted[[request for *_, request in admitted]] = self.step
        self.waiting = [request for request in self.waiting if self.admitted[request] < 0]
        self.seated += len(admitted)
        return admitted

    def loads(self) -> Tensor:
        """(workers,) resident tokens."""
        request = self.slots.flatten().clamp_min(0)
        worker = torch.where(self.slots.flatten() < 0, -1, self._worker)
        workers = len(self.slots)
        return project_loads(worker, self.tokens[request], self.remaining[request], self._now, workers)[:, 0]

    def advance(self) -> list[tuple[int, int]]:
        """Everybody made a token. Worker and place of those who are done, whose slots are free from now on."""
        seated, request = self.slots >= 0, self.slots.clamp_min(0)
        self.tokens.index_add_(0, request.flatten(), seated.flatten().long())
        self.remaining.index_add_(0, request.flatten(), seated.flatten().long(), alpha=-1)
        left = seated & (self.remaining[request] == 0)
        self.slots = torch.where(left, -1, self.slots)
        gone = [(worker, place) for worker, place in left.nonzero().tolist()]
        self.seated -= len(gone)
        self.step += 1
        return gone
