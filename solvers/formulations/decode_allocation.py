"""Decode allocation as a mixed-integer program: a binary per waiting request and worker, a height per step ahead.

The search is helped by what can be seen beforehand: who is certainly admitted, who never needs to be (enough
others are as small at every step), which workers are alike, and how low the heaviest worker can be at best.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np

from ...specs.decode_allocation import DecodeAllocation, DecodePlan
from ...specs.errors import UnsupportedError
from ..answer import Answer
from ..decode_bounds import counting_bound, lowest_height
from ..decode_routes import find_routes
from ..decode_step import Admission, decode_step
from ..formulation import Evidence, Formulation
from ..program import LARGEST, Builder, Integers, Program

SEARCH_GAP = 1e-3
"""The gap that `auto` asks for."""
LIGHTEST = 1e-14
"""Entries of the horizon that weigh less than this move no digit of the objective, and are left out of the program."""
FEWEST_TOKENS = 1e-8
"""Shares of the heaviest load below this are taken for nothing: a backend would drop them anyway."""
FINEST = 10_000
"""Units per token up to which a solver's tolerance cannot blur a KV limit."""
CAUTION = 1e-5
"""Tokens by which KV limits are tightened where loads are finer than that: ten times a solver's tolerance."""


class DecodeProgram(Formulation[DecodeAllocation, DecodePlan]):
    """Decode allocation as a program, and back."""

    drops_dominated: ClassVar[bool] = True
    orders_twins: ClassVar[bool] = True

    def __init__(self, spec: DecodeAllocation) -> None:
        super().__init__(spec)
        self.step = decode_step(spec)
        self.certain = 0 if self.step.memory is not None else self.step.most
        """How many are admitted for certain: as many as there are slots for, unless memory is a limit."""
        self.sure = self.step.sure(self.certain)
        self.routes = find_routes(self.step, self.certain, self.drops_dominated, self.orders_twins)

    def formulate(self) -> Program:
        """Columns: `route` per request and worker, `admitted` per request, `height` of the heaviest worker per step.

        Under KV limits the number admitted is settled before the objective.
        """
        step, routes = self.step, self.routes
        kept = np.flatnonzero(step.weight >= LIGHTEST)
        if len(routes.request) * len(kept) > LARGEST:
            pairs = f"{len(routes.request):,} pairs of requests and workers × {len(kept):,} entries of the horizon"
            raise UnsupportedError(f"{pairs} are more than the exact program can hold; name fewer steps, far apart")
        floor = lowest_height(step, self.certain)[kept]
        scale = 2.0 ** round(math.log2(top)) if (top := float(floor.max(initial=0.0))) > 0 else 1.0
        added = step.added(routes.request, routes.worker)[:, kept]
        cost, worth = step.weight[kept] * scale, 0.0
        builder = Builder("minimise", gap=SEARCH_GAP)
        if self.spec.minimise == "imbalance":
            cost, worth = cost * step.speed.sum(), -(added @ step.weight[kept])
            builder.offset = -math.fsum((step.weight * step.active).ravel())
        height = builder.columns("height", len(kept), cost=cost, lower=floor / scale)
        route = builder.columns("route", len(routes.request), cost=worth, upper=1.0, integer=True)
        admitted = builder.columns(
            "admitted", len(routes.candidates), lower=self.sure[routes.candidates], upper=1.0, integer=True
        )
        seat = np.cumsum(step.free > 0) - 1
        pace = step.speed[step.open, None] * scale
        busy = builder.rows("busy", (len(step.open), len(kept)), lower=step.active[step.open][:, kept] / pace)
        builder.entries(busy, height)
        share = added / (step.speed[routes.worker, None] * scale)
        builder.entries(busy[seat[routes.worker]], route[:, None], np.where(share > FEWEST_TOKENS, -share, 0.0))
        slots = builder.rows("slots", len(step.open), upper=step.free[step.open])
        builder.entries(slots[seat[routes.worker]], route)
        self._admission_rows(builder, route, admitted)
        self._memory_rows(builder, route)
        start = self._first_plan()
        heights = step.step_time(step.load(start))[kept] / scale
        values = [
            np.maximum(heights, floor / scale),
            start[routes.request] == routes.worker,
            start[routes.candidates] >= 0,
        ]
        return replace(builder.build(), start=np.concatenate(values).astype(np.float64))

    def _admission_rows(self, builder: Builder, route: Integers, admitted: Integers) -> None:
        """Who is admitted has one worker; all slots are filled; nobody passes a protected request."""
        step, candidates = self.step, self.routes.candidates
        turn = np.full(len(step.queue), -1)
        turn[candidates] = np.arange(len(candidates))
        once = builder.rows("once", len(candidates), lower=0.0, upper=0.0)
        builder.entries(once[turn[self.routes.request]], route)
        builder.entries(once, admitted, -1.0)
        if step.memory is None:
            filled = builder.rows("filled", min(1, len(candidates)), lower=self.certain, upper=self.certain)
            builder.entries(filled, admitted)
        else:
            builder.goal("admitted", "maximise", admitted)
        protected = (step.protected & ~self.sure)[candidates]
        last = np.maximum.accumulate(np.where(protected, np.arange(len(candidates)), -1))
        ahead = np.concatenate([[-1], last])[:-1]  # who of the protected is next ahead of each candidate
        behind = np.flatnonzero(ahead >= 0)
        order = builder.rows("order", len(behind), upper=0.0)
        builder.entries(order, admitted[behind])
        builder.entries(order, admitted[ahead[behind]], -1.0)

    def _memory_rows(self, builder: Builder, route: Integers) -> None:
        step, routes, memory = self.step, self.routes, self.step.memory
        if memory is None:
            return
        slack = 0.5 / memory.per_token if memory.per_token <= FINEST else -CAUTION
        for worker in step.open.tolist():
            mine = np.flatnonzero(routes.worker == worker)
            if not mine.size:
                continue
            needed = memory.needed(routes.request[mine], routes.worker[mine])
            tight = needed.max(axis=0) * min(int(step.free[worker]), len(mine)) > memory.room[worker]
            room = (memory.room[worker][tight] / memory.per_token).astype(np.float64)
            rows = builder.rows(f"memory_{worker}", len(room), upper=np.maximum(room + slack, 0.0))
            builder.entries(rows, route[mine, None], (needed[:, tight] / memory.per_token).astype(np.float64))

    def interpret(self, answer: Answer) -> DecodePlan:
        """The worker of each request; what memory would still hold after a search that was cut short is added."""
        worker = np.full(len(self.step.queue), -1, np.int64)
        taken = answer.whole("route") == 1
        worker[self.routes.request[taken]] = self.routes.worker[taken]
        if self.step.memory is not None:
            admission = Admission.start(self.step, worker)
            admission.serve(self.step.queue.tolist(), admission.least_rise)
            worker = admission.worker
        return self.report(worker)

    def report(self, worker: Integers) -> DecodePlan:
        """The plan that sends the waiting requests to these workers, with what it says of itself."""
        return self.step.report(worker)

    def prove(self, plan: DecodePlan, answer: Answer) -> Evidence:
        """The counting bound where that closes the gap; else the better of it and the search's bound."""
        step, memory = self.step, self.step.memory
        number = self.certain if memory is None else int((plan.worker >= 0).sum())
        objective, bound = step.objective(plan), counting_bound(step, number)
        total = math.fsum(step.weight * plan.step_time) * max(math.fsum(step.speed), 1.0)
        close = 1e-9 * (abs(objective) if self.spec.minimise == "step_time" else total)
        if memory is None and objective - bound <= close:
            return Evidence(objective, min(bound, objective), "threshold")
        notes: list[str] = []
        if memory is not None and memory.per_token > FINEST:
            notes.append(f"loads within {CAUTION:g} tokens of a kv_capacity were taken to be beyond it")
        if any(goal.stopped != "solved" for goal in answer.goals):
            notes.append(f"{number} requests are admitted, which was not proved to be the largest number")
        if self.spec.minimise == "imbalance":
            notes.append("the gap is relative to the weighted capacity of a step, since imbalance tends to zero")
        return Evidence(objective, min(max(bound, answer.bound), objective), "search", tuple(notes))

    def _first_plan(self) -> Integers:
        """(waiting,) a placement to start from: the smallest that may be admitted, longest first."""
        step, routes = self.step, self.routes
        admission = Admission.start(step)
        if step.memory is not None:
            admission.serve(step.queue.tolist(), admission.least_rise)
            return routes.renamed(admission.worker)
        chosen = routes.candidates
        if not (step.overdue & ~self.sure).any() and self.spec.minimise == "step_time":
            chosen = chosen[np.argsort(-routes.size_rank[chosen], kind="stable")]
        chosen = chosen[np.argsort(~self.sure[chosen], kind="stable")][: self.certain]
        admission.serve(chosen[np.argsort(routes.size_rank[chosen])].tolist(), admission.least_rise)
        return routes.renamed(admission.worker)


FORMULATION = DecodeProgram
