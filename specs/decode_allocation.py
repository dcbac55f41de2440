"""Which waiting requests are admitted to a step of data-parallel decoding, and to which worker.

All workers decode in lock-step, so a step lasts as long as its most loaded worker. A request grows by a token
or more per step, cannot move once placed, and leaves when it is done: what is placed now is felt for as long as it
stays. So the load can be weighed ahead, too, at a few steps far apart. By default it is not: in replays of real
traces none of the lookaheads tried did better, over all of them, than the present step alone. What is known of a later
step is who will still be there, and not who will have come by then, chosen so that the loads are level.

Sources: BF-IO (arXiv 2601.17855) for the imbalance and its integer program; BalanceRoute (arXiv 2605.06113) for
routing under lookahead. The weights that fall over a coarse horizon, the rule that bounds overtaking and the
predictions in pairs are our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from .arrays import Amounts, ArrayRule, Counts, Floats, Indices, Integers, Reals, axis_error
from .certificate import relative_gap
from .errors import Fault
from .exact import exact
from .scalars import LARGEST_INTEGER, Amount, Count, PositiveAmount
from .spec import Broken, Plan, Spec, above, differs, misshapen
from .tables import Table

LONGEST_HORIZON = 4096
"""Steps ahead at which loads may be weighed, at most."""
HORIZON = (0,)
PATIENCE, USUAL_PATIENCE = 6.5, 64
"""How many times what the queue usually takes to work off makes a request overdue; and the steps if that is unknown."""

Remaining = Annotated[Integers, ArrayRule(whole=True, least=1, dimensions=(1, 2))]
"""Steps until a request is done, at least 1; or a pair of predictions, its median and its 90th percentile."""
Speeds = Annotated[Floats, ArrayRule(above=0, least=1e-12, most=1e12)]
"""Numbers above 0, of a sensible size."""
AmountMatrix = Annotated[Floats, ArrayRule(least=0, dimensions=(2,))]
"""A table of finite numbers, at least 0."""


Slots = Annotated[Integers, ArrayRule(whole=True, least=0, most=2**31 - 1)]
"""Slots of workers: their sum stays far below 2⁶³."""


class Workers(Table):
    """The data-parallel workers, a row each; they are numbered from 0 in this order."""

    slots: Slots
    """Requests that a worker decodes at once. With fewer than it has now it is draining, and takes none."""
    kv_capacity: Counts | None = None
    """Tokens that its KV cache holds; unlimited if absent."""
    speed: Speeds | None = None
    """Tokens per unit of time, in any one unit; 1 if absent."""


class Active(Table):
    """The requests that are being decoded, a row each."""

    worker: Counts
    """Number of the worker that it sits on."""
    tokens: Counts
    """Tokens resident: the prompt and what was generated so far."""
    remaining: Remaining | None = None
    """Steps until it is done, or a pair (p50, p90) of predictions; beyond the horizon if absent."""


class Waiting(Table):
    """The requests that wait, a row each, the oldest first."""

    tokens: Counts
    """Tokens of the prompt, and of anything generated before."""
    remaining: Remaining | None = None
    """Steps that it will take, or a pair (p50, p90) of predictions; beyond the horizon if absent."""
    waited: Counts | None = None
    """Steps since it joined the queue; 0 if absent."""
    priority: Reals | None = None
    """The queue is ordered by falling priority first, then by age; all equal if absent."""
    affinity: AmountMatrix | None = None
    """(waiting × workers) tokens that the prefix cache of a worker would save; none if absent."""


def _steps(value: Any) -> Any:
    """An integer H as the steps 0, 1, … H; anything else as it is."""
    value = value.item() if isinstance(value, np.integer) else value
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value < 0:
        raise Fault(f"must be at least 0, got {value}")
    if value >= LONGEST_HORIZON:
        raise Fault(f"must be at most {LONGEST_HORIZON - 1}, got {value}; name fewer steps, far apart")
    return np.arange(value + 1)


_Steps = Annotated[Integers, ArrayRule(whole=True, least=0)]
_LastStep = Annotated[int, Field(ge=0, lt=LONGEST_HORIZON)]
Horizon = Annotated[_Steps, BeforeValidator(_steps, json_schema_input_type=_LastStep | _Steps)]
"""Rising steps ahead; an integer H stands for 0, 1, … H."""


class DecodePlan(Plan):
    """Who is admitted where.

    worker: (waiting,) the worker that each waiting request goes to; −1 keeps it waiting.
    load: (workers × horizon) tokens on each worker after admission, at each step of the horizon.
    step_time: (horizon,) the heaviest worker's load over its speed.
    """

    kind: Literal["decode_allocation"] = "decode_allocation"
    worker: Indices
    load: AmountMatrix
    step_time: Amounts

    axes: ClassVar = {"worker": ("waiting",), "load": ("workers", "horizon"), "step_time": ("horizon",)}


class DecodeAllocation(Spec[DecodePlan]):
    """Which waiting requests are admitted to a step of data-parallel decoding, and to which worker.

    load[g,h] = Σ (tokens + growth·h) over the requests on worker g with remaining > h; M[h] = max load[g,h]/speed[g].
    Minimise `step_time`, Σ discount^j·M[h_j] over the entries h_j of the horizon; or `imbalance`,
    Σ discount^j·(Σ speed[g]·M[h_j] − Σ load[g,h_j]), which pays for admitting long prompts where there is a choice.

    As many are admitted as the slots and the rules allow; the objective decides which and where. A pair (p50, p90)
    of predictions counts as half a request that stays p50 steps and half a one that stays p90: so a pair of
    equals means the same as the one number, and nothing is counted for ever.
    """

    kind: Literal["decode_allocation"] = "decode_allocation"
    workers: Workers
    active: Active = Field(default_factory=lambda: Active(worker=np.zeros(0, np.int64), tokens=np.zeros(0, np.int64)))
    waiting: Waiting
    horizon: Horizon = Field(default=HORIZON, validate_default=True)
    """Steps ahead at which loads are weighed, rising; an integer H stands for 0, 1, … H; the present step if absent."""
    discount: Annotated[PositiveAmount, Field(le=1)] = 0.7
    """What an entry of the horizon weighs, relative to the entry before it."""
    growth: Amount = 1.0
    """Tokens by which a request grows per step; above 1 under speculative decoding."""
    minimise: Literal["step_time", "imbalance"] = Field(default="step_time", alias="objective")
    """What is minimised."""
    admission: Literal["window", "fifo"] = "window"
    """`window`: any may be admitted, but none past an overdue one; `fifo`: the longest prefix of the queue."""
    max_bypass: Count | None = None
    """Steps of waiting from which on a request is overdue; if absent, 6.5 times waiting / Σ slots times the geometric
    mean of `remaining` over all requests, active and waiting (those above 1), and 64 where nothing is predicted."""

    sense = "minimise"
    unit = "discounted tokens"

    @model_validator(mode="after")
    def _consistent(self) -> DecodeAllocation:
        horizon, workers, active, waiting = self.horizon, self.workers.slots.size, self.active, self.waiting
        if not 1 <= len(horizon) <= LONGEST_HORIZON:
            raise Fault(f"must have 1 to {LONGEST_HORIZON} entries, got {len(horizon)}", "horizon")
        for entry in np.flatnonzero(horizon[1:] <= horizon[:-1])[:1].tolist() if len(horizon) > 1 else ():
            text = f"must be above the entry before it, {horizon[entry]}, got {horizon[entry + 1]}"
            raise Fault(text, "horizon", entry + 1)
        if _largest(active.worker) >= workers:
            row = int(np.argmax(active.worker >= workers))
            text = f"must be the number of a worker, below {workers}, got {active.worker[row]}"
            raise Fault(text, "active", "worker", row)
        rows = active.tokens.size + waiting.tokens.size
        steps, tokens = float(horizon[-1]) * rows, float(rows) * max(_largest(active.tokens), _largest(waiting.tokens))
        if tokens + steps * self.growth > LARGEST_INTEGER:  # only then it matters what they come to
            tokens = float(active.tokens.sum(dtype=np.float64) + waiting.tokens.sum(dtype=np.float64))
        if tokens + steps * self.growth > LARGEST_INTEGER:
            most = max(LARGEST_INTEGER - tokens, 0.0) / steps if steps else 0.0
            text = f"lets loads grow beyond 2⁵³ tokens by step {horizon[-1]}; at most {most:.3g} keeps them below"
            raise Fault(text, "growth")
        _check_pairs(self.active.remaining, "active")
        _check_pairs(self.waiting.remaining, "waiting")
        self._check_affinity()
        return self

    def _check_affinity(self) -> None:
        affinity, tokens = self.waiting.affinity, self.waiting.tokens
        if affinity is None or not len(tokens):
            return
        if affinity.shape[1] != self.workers.slots.size:
            fault = axis_error("waiting.affinity", affinity.shape[1], "workers", self.workers.slots.size)
            raise Fault(fault.message.replace("entries", "columns"), "waiting", "affinity")
        for row, worker in np.argwhere(affinity > tokens[:, None])[:1].tolist():
            text = f"must be at most the request's tokens, {tokens[row]}, got {affinity[row, worker]:.10g}"
            raise Fault(text, "waiting", "affinity", row, worker)

    def demands(self, plan: DecodePlan) -> Iterator[Broken]:
        """Slots, memory, who may overtake whom, and whether slots were left free.

        Under `kv_capacity` the largest number that can be admitted is a packing problem, which is not solved again
        here: what is asked is that no single further request could have been admitted. Without it the number is
        the smaller of free slots and waiting requests, and is held against that.
        """
        shape, placed = (self.workers.slots.size, self.horizon.size), plan.worker
        wrong = list(misshapen("worker", placed, self.waiting.tokens.shape))
        if plan.load.size or shape[0]:  # without workers, a list of no rows has lost its width
            wrong += misshapen("load", plan.load, shape)
        wrong += misshapen("step_time", plan.step_time, shape[1:])
        if placed.size and placed.max() >= shape[0]:
            wrong += above("worker", "worker", placed, shape[0] - 1)
        yield from wrong
        if wrong:
            return
        given = np.bincount(placed + 1, minlength=shape[0] + 1)[1:]
        over = given > self._free
        for worker in over.nonzero()[0].tolist():
            message = f"gives {given[worker]} to worker {worker}, which has {self._free[worker]} free slots"
            yield Broken("workers.slots", ("worker",), float(given[worker] - self._free[worker]), message)
        if self.workers.kv_capacity is not None:
            yield from self._memory_rules(placed)
        yield from self._order_rules(placed)
        yield from self._filling_rules(placed, given)

    def reports(self, plan: DecodePlan) -> Iterator[Broken]:
        """Loads and step times that are not what the placement comes to. Plans of the wrong shape report nothing."""
        shape = (self.workers.slots.size, self.horizon.size)
        shapes = plan.worker.shape, plan.load.reshape(-1).shape, plan.step_time.shape
        if shapes != (self.waiting.tokens.shape, (shape[0] * shape[1],), shape[1:]):
            return
        if plan.worker.size and plan.worker.max() >= shape[0]:
            return
        load = self._active_load() + self._added(plan.worker)
        step_time, saved = self._heaviest(load), self._saved()
        yield from differs("load", "load", plan.load.reshape(shape), load, size=load.max(initial=0.0) + saved)
        size = step_time.max(initial=0.0) + saved / self._speed().min(initial=np.inf)
        yield from differs("step_time", "step_time", plan.step_time, step_time, size=size)

    def _memory_rules(self, placed: Integers) -> Iterator[Broken]:
        added, room = self._added(placed), self._room()
        for worker, entry in np.argwhere(self._beyond(added, lambda worker: placed == worker)).tolist():
            message = (
                f"puts {added[worker, entry]:.10g} tokens on worker {worker} at step {self.horizon[entry]} of the "
                f"horizon, where {room[worker, entry]:.10g} are free"
            )
            yield Broken("workers.kv_capacity", ("worker",), float(added[worker, entry] - room[worker, entry]), message)

    def _order_rules(self, placed: Integers) -> Iterator[Broken]:
        """Nobody overtakes a request that the admission protects: any under `fifo`, an overdue one else."""
        if not np.count_nonzero(self._kept_waiting(placed)):
            return
        blocked = self._blocked_from(placed)
        queue = self._queue()
        if blocked == len(queue):
            return
        left = int(queue[blocked])
        rule = "admission" if self.admission == "fifo" else "max_bypass"
        for request in queue[blocked + 1 :][placed[queue[blocked + 1 :]] >= 0].tolist():
            message = f"is {placed[request]}, past request {left}, which is ahead of it and kept waiting"
            yield Broken(rule, ("worker", request), 1.0, message)

    def _filling_rules(self, placed: Integers, given: Integers) -> Iterator[Broken]:
        if self.workers.kv_capacity is None:
            number, admitted = min(int(self._free.sum()), placed.size), int(given.sum())
            if admitted < number:
                yield Broken("filled", ("worker",), number - admitted, f"admits {admitted}, and could admit {number}")
            return
        added, slot = self._added(placed), given < self._free
        for request in self._queue()[: self._blocked_from(placed) + 1].tolist():
            if placed[request] >= 0 or not slot.any():
                continue
            single = self._single(np.array([request]))[0]
            over = self._beyond(added + single, lambda worker, new=request: _with(placed == worker, new))
            for worker in np.flatnonzero(slot & ~over.any(axis=1))[:1].tolist():
                message = f"is -1, but the request would fit on worker {worker}"
                yield Broken("filled", ("worker", request), 1.0, message)

    def objective(self, plan: DecodePlan) -> float:
        """Σ discount^j·M[h_j], or the imbalance, from the plan's own loads (which `rules` verify)."""
        weight = self._weight()
        if self.minimise == "step_time":
            return math.fsum(weight * plan.step_time)
        idle = self._speed()[:, None] * plan.step_time - plan.load.reshape(self.workers.slots.size, self.horizon.size)
        return math.fsum((weight * idle).ravel())

    def gap(self, plan: DecodePlan, objective: float, bound: float) -> float:
        """The relative gap; for `imbalance`, which tends to zero, relative to the whole time of all workers."""
        if self.minimise == "step_time":
            return relative_gap(objective, bound)
        return relative_gap(objective, bound, self.magnitude(plan))

    def magnitude(self, plan: DecodePlan) -> float:
        """For `imbalance`, the whole time of all workers, of which it is what their loads leave over."""
        if self.minimise == "step_time":
            return math.fsum(self._weight()) * self._saved() / self._speed().min(initial=np.inf)
        return math.fsum(self._weight() * plan.step_time) * math.fsum(self._speed())

    def bound(self, plan: DecodePlan) -> float:
        """Counting bound: what is surely admitted, as light as it can be, spread as evenly as fractions allow.

        At each step of the horizon the heaviest worker has at least its active load and the smallest requests that
        its slots must take; at least an even share of all that sits on workers with free slots; and at least what
        the lightest of these has with any one request that is sure to be admitted. Under `kv_capacity`, at
        least as many are admitted as this plan admits.
        """
        free, speed, active, requests = self._free, self._speed(), self._active_load(), len(self.waiting)
        if not len(speed):
            return 0.0
        open_ = free > 0
        most = min(int(free.sum()), requests)
        number = most if self.workers.kv_capacity is None else int((plan.worker >= 0).sum())
        place = np.argsort(self._queue())
        sure = (place < number) & (self._overdue() if self.admission == "window" else True)
        least, largest = self._extremes()
        chosen = number - int(sure.sum())
        volume = least[sure].sum(axis=0) + _smallest(least[~sure], chosen).sum(axis=0)
        must = np.maximum(number - (free.sum() - free), 0)  # what a worker takes with all the others full
        smallest = np.sort(_smallest(least, int(must.max())), axis=0)
        floor = active + np.vstack([np.zeros(active.shape[1]), np.cumsum(smallest, axis=0)])[must]
        height = (floor / speed[:, None]).max(axis=0)
        if self.waiting.affinity is None and open_.any() and sure.any():  # the largest of them weighs most anywhere
            after = (active[open_] + least[sure].max(axis=0)) / speed[open_, None]
            height = np.maximum(height, after.min(axis=0))
        elif open_.any():
            for request in np.flatnonzero(sure).tolist():
                after = (active + self._single(np.array([request]))[0])[open_] / speed[open_, None]
                height = np.maximum(height, after.min(axis=0))
        held, pace = active[open_].sum(axis=0), float(speed[open_].sum())
        if self.minimise == "step_time":
            even = (held + volume) / pace if pace else 0.0
            return math.fsum(self._weight() * np.maximum(height, even))
        # Admitting more leaves less idle until all open workers stand level, and more idle from there on.
        room = most if self.workers.kv_capacity is not None else number
        ceiling = largest[sure].sum(axis=0) - _smallest(-largest[~sure], room - int(sure.sum())).sum(axis=0)
        volume = np.clip(height * pace - held, volume, np.maximum(ceiling, volume))
        height = np.maximum(height, (held + volume) / pace) if pace else height
        return math.fsum(self._weight() * (height * speed.sum() - active.sum(axis=0) - volume))

    def rank(self, plan: DecodePlan) -> float:
        """How many are admitted: that counts before the objective. Only `kv_capacity` leaves it open."""
        return float(np.count_nonzero(plan.worker >= 0))

    def measures(self, plan: DecodePlan) -> dict[str, float]:
        """How many are admitted; the heaviest worker and the idle share at the first step of the horizon."""
        busy = (
            plan.load.reshape(self.workers.slots.size, -1)[:, 0] / self._speed()
            if self.workers.slots.size
            else np.zeros(1)
        )
        when = "now" if self.horizon[0] == 0 else f"{self.horizon[0]} steps ahead"
        idle = 1 - busy.mean() / busy.max() if busy.max() > 0 else 0.0
        return {
            "admitted": float((plan.worker >= 0).sum()),
            f"heaviest worker {when} (tokens)": float(plan.load[:, 0].max()) if self.workers.slots.size else 0.0,
            f"idle share {when} (%)": 100 * float(idle),
        }

    def _saved(self) -> float:
        """The most tokens that a prefix cache saves of a request, whose load is what is left of it."""
        return 0.0 if self.waiting.affinity is None else float(self.waiting.affinity.max(initial=0.0))

    def _weight(self) -> Floats:
        return self.discount ** np.arange(len(self.horizon), dtype=np.float64)

    def _speed(self) -> Floats:
        return np.ones(self.workers.slots.size) if self.workers.speed is None else self.workers.speed

    @cached_property
    def overdue_after(self) -> int:
        """Steps of waiting from which on a request is overdue: `max_bypass`, or what suits the queue.

        That is 6.5 times waiting / Σ slots times how long requests usually take, rounded up: by Little's law a multiple
        of what the last of the queue waits under first come, first served. What is usual is the geometric mean of
        `remaining` over active and waiting: of many numbers, so that it is steady from step to step, and of their
        logarithms, so that a few very long ones do not carry it. Those of 1 step do not count: predictions that were
        outlived stand there. Of a pair of predictions the median counts. Without predictions, or without slots, it
        is 64. O(active + waiting).
        """
        if self.max_bypass is not None:
            return self.max_bypass
        tables, slots = (self.active.remaining, self.waiting.remaining), int(self.workers.slots.sum())
        known = [steps if steps.ndim == 1 else steps[:, 0] for steps in tables if steps is not None]
        if not known or not slots:
            return USUAL_PATIENCE
        logarithms = sum(float(np.log(steps).sum()) for steps in known)
        number = sum(int(np.count_nonzero(steps > 1)) for steps in known)
        usual = math.exp(logarithms / max(number, 1))
        steps = round(PATIENCE * len(self.waiting) / slots * usual, 6)  # the same for all that round differently
        return min(math.ceil(steps), LARGEST_INTEGER)

    @cached_property
    def _free(self) -> Integers:
        """(workers,) slots to fill."""
        return np.maximum(self.workers.slots - np.bincount(self.active.worker, minlength=self.workers.slots.size), 0)

    def _queue(self) -> Integers:
        """The waiting requests in the order of the queue."""
        priority = self.waiting.priority
        return np.arange(len(self.waiting)) if priority is None else np.argsort(-priority, kind="stable")

    def _overdue(self) -> NDArray[np.bool_]:
        waited = np.zeros(len(self.waiting), np.int64) if self.waiting.waited is None else self.waiting.waited
        return waited >= self.overdue_after

    def _blocked_from(self, placed: Integers) -> int:
        """Place in the queue of the first protected request that is kept waiting; none behind it may be admitted."""
        queue = self._queue()
        kept = self._kept_waiting(placed)
        return int(np.argmax(kept[queue])) if kept.any() else len(queue)

    def _kept_waiting(self, placed: Integers) -> NDArray[np.bool_]:
        """(waiting,) the protected requests that a plan keeps waiting."""
        return (placed < 0) & (True if self.admission == "fifo" else self._overdue())

    def _active_load(self) -> Floats:
        load, worker = np.empty((self.workers.slots.size, len(self.horizon))), self.active.worker
        lasting = self._lasting(self.active)
        for entry, step in enumerate(self.horizon.tolist()):
            tokens = lasting[:, entry] * (self.active.tokens + self.growth * step)
            load[:, entry] = np.bincount(worker, weights=tokens, minlength=len(load))
        return load

    def _single(self, requests: Integers) -> Floats:
        """(requests × workers × horizon) tokens that each waiting request would put on each worker."""
        saved = np.zeros((len(self.waiting), self.workers.slots.size)) if (a := self.waiting.affinity) is None else a
        lasting, grown = self._lasting(self.waiting)[requests], self._grown(self.waiting.tokens)[requests]
        return lasting[:, None, :] * (grown[:, None, :] - saved[requests][:, :, None])

    def _extremes(self) -> tuple[Floats, Floats]:
        """(waiting × horizon) each: the fewest and the most tokens that a request can put on an open worker."""
        lasting, grown = self._lasting(self.waiting), self._grown(self.waiting.tokens)
        open_ = self._free > 0
        if self.waiting.affinity is None or not open_.any():
            return lasting * grown, lasting * grown
        saved = self.waiting.affinity[:, open_]
        return lasting * (grown - saved.max(axis=1)[:, None]), lasting * (grown - saved.min(axis=1)[:, None])

    def _added(self, placed: Integers) -> Floats:
        """(workers × horizon) tokens of the newly admitted."""
        new, added = np.flatnonzero(placed >= 0), np.zeros((self.workers.slots.size, len(self.horizon)))
        tokens = self.waiting.tokens[new].astype(np.float64)
        if self.waiting.affinity is not None:
            tokens = tokens - self.waiting.affinity[new, placed[new]]
        np.add.at(added, placed[new], self._lasting(self.waiting)[new] * self._grown(tokens))
        return added

    def _grown(self, tokens: NDArray[Any]) -> Floats:
        return tokens[:, None] + self.growth * self.horizon

    def _lasting(self, requests: Active | Waiting) -> Floats:
        """(requests × horizon) how much of each request is still there: 1, ½ (between a pair's two) or 0."""
        remaining = requests.remaining
        if remaining is None or not len(remaining):
            return np.ones((len(requests), len(self.horizon)))
        if remaining.ndim == 1:
            return (remaining[:, None] > self.horizon).astype(np.float64)
        return (remaining[:, :, None] > self.horizon).mean(axis=1)

    def _heaviest(self, load: Floats) -> Floats:
        return (load / self._speed()[:, None]).max(axis=0, initial=0.0)

    def _room(self) -> Floats:
        """(workers × horizon) tokens that new requests may take up."""
        active = self._active_load()
        if self.workers.kv_capacity is None:
            return np.full(active.shape, np.inf)
        return np.maximum(self.workers.kv_capacity[:, None] - active, 0.0)

    def _beyond(self, added: Floats, on: Callable[[int], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """(workers × horizon) whether new requests take more than there is; `on` tells which sit on a worker.

        Decided in floating point where that is safe, and exactly where the two are close.
        """
        if self.workers.kv_capacity is None:
            return np.zeros(added.shape, np.bool_)
        room = self._room()
        beyond = added > room
        close = np.abs(added - room) <= 1e-9 * np.maximum(self.workers.kv_capacity[:, None], added)
        for worker, entry in np.argwhere(close).tolist():
            if not on(worker).any():
                continue
            capacity = Fraction(int(self.workers.kv_capacity[worker]))
            held = self._exact_load(self.active, self.active.worker == worker, entry, None)
            new = self._exact_load(self.waiting, on(worker), entry, worker)
            beyond[worker, entry] = new > max(capacity - held, 0)
        return beyond

    def _exact_load(self, requests: Active | Waiting, among: NDArray[np.bool_], entry: int, on: int | None) -> Fraction:
        """Load of some requests at an entry of the horizon, without rounding."""
        lasting, total = self._lasting(requests)[:, entry], Fraction(0)
        grown = exact(self.growth) * int(self.horizon[entry])
        for row in np.flatnonzero(among & (lasting > 0)).tolist():
            saved = Fraction(0)
            if on is not None and self.waiting.affinity is not None:
                saved = exact(self.waiting.affinity[row, on])
            total += Fraction(lasting[row]) * (int(requests.tokens[row]) + grown - saved)
        return total


def _smallest(values: Floats, number: int) -> Floats:
    """The smallest so many of each column, in no order."""
    return np.partition(values, number - 1, axis=0)[:number] if 0 < number < len(values) else values[: max(number, 0)]


def _with(members: NDArray[np.bool_], new: int) -> NDArray[np.bool_]:
    members = members.copy()
    members[new] = True
    return members


def _largest(values: Integers) -> int:
    """The largest of some numbers from −1 on; −1 of none."""
    return values.item(values.argmax()) if values.size else -1


def _check_pairs(remaining: Integers | None, table: str) -> None:
    if remaining is None or remaining.ndim == 1:
        return
    if remaining.shape[1] != 2:
        raise Fault(f"must be a number or a pair (p50, p90) per request, got {remaining.shape[1]}", table, "remaining")
    for row in np.flatnonzero(remaining[:, 0] > remaining[:, 1])[:1].tolist():
        text = f"must be at least the median before it, {remaining[row, 0]}, got {remaining[row, 1]}"
        raise Fault(text, table, "remaining", row, 1)
