"""The prompts of a step as sequences of marginal values, in the form that `rungs.py` has them, or as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...specs.arrays import Floats, Integers
from ...specs.rollout_budgets import RolloutBudgets
from ...specs.rollout_worth import GVM_ALPHA, GVM_BETA
from ..answer import ProgramInfeasible
from ..rollout_values import Outlook, outlook
from .budget import take
from .rungs import BELIEF, RATE, RECIPROCAL, SUM, VIP, begin, beliefs, tabulate

BLOCK: Final = 2**20
"""Values that are tabulated between two looks at the clock: some 60 ms."""
LAWS: Final = {"neyman": RECIPROCAL, "gvm": RECIPROCAL, "vip": VIP}


@dataclass(frozen=True)
class Steps:
    """The prompts of a spec as sequences of marginal values, a rung being `multiple_of` rollouts.

    law, curve: as `rungs.py` reads them; none under `table`. start, top: (prompts,) first and last rung allowed.
    """

    spec: RolloutBudgets
    view: Outlook
    start: Integers
    top: Integers
    law: int
    curve: Floats
    state: Floats
    place: Integers

    @property
    def size(self) -> int:
        """Prompts."""
        return len(self.start)

    def take(self, rows: slice, cap: Integers, wanted: int) -> None:
        """Take the best rungs of some prompts, below their caps."""
        take(
            self.law,
            self.spec.multiple_of,
            self.view.seen[rows],
            self.curve[rows],
            self.state[rows],
            self.place[rows],
            cap,
            wanted,
        )

    def values(self, counts: Integers) -> Floats:
        """(prompts,) what so many rungs are worth, where they are those that were climbed last."""
        if self.law in (BELIEF, RATE):
            return self.state[:, SUM]
        rollouts = counts * float(self.spec.multiple_of)
        if self.law == RECIPROCAL:
            return -self.curve[:, 0] / rollouts
        return -self.curve[:, 0] * ((rollouts - 1) / rollouts**2)


def concave(spec: RolloutBudgets) -> bool:
    """Whether values are known to be concave over the counts that are allowed, whatever the rates.

    The first of all rollouts has no effect alone, unless others come with it; `vip` bends the other way below 3.
    """
    if spec.value == "table":
        return False
    if spec.value == "vip":
        return spec.least > 2 or spec.multiple_of > 1
    if spec.value in ("neyman", "gvm"):
        return True
    drawn = spec.prompts.drawn
    return spec.least > 0 or spec.multiple_of > 1 or (drawn is not None and bool((drawn > 0).all()))


def steps(spec: RolloutBudgets) -> Steps:
    """The sequences of marginal values of a spec, each at its first allowed rung. Raises `ProgramInfeasible`."""
    view, step = outlook(spec), spec.multiple_of
    size = len(spec.prompts)
    least, most = -(-spec.least // step), spec.most // step
    start = np.full(size, least) if spec.prompts.drawn is None else np.maximum(-(-view.seen // step), least)
    if size and int(start.max()) > most:
        raise ProgramInfeasible("no count is allowed")
    most = _within_reach(spec, start, most)
    law, curve = _curve(spec, view)
    state, place = np.empty((size, 5)), np.empty((size, 2), np.int64)
    if spec.value != "table":
        begin(law, step, view.seen, start, curve, state, place)
    return Steps(spec, view, start, np.full(size, most), law, curve, state, place)


def _within_reach(spec: RolloutBudgets, start: Integers, most: int) -> int:
    """The last rung that may matter. Raises `ProgramInfeasible` where the budget allows no counts at all.

    Tested before any sequence is walked, so that no walk is longer than the budget; in numbers that cannot overflow.
    """
    step, size = spec.multiple_of, len(start)
    if spec.total is None:
        return most  # at most as many as a table may have
    rungs = spec.total // step
    if not size:
        return most
    if spec.prompts.drawn is None:
        needed = size * int(start[0])
    else:
        needed = int(start.sum()) if int(start.max()) <= rungs else rungs + 1
    if not needed <= rungs <= size * most:
        raise ProgramInfeasible("the total is out of reach")
    return min(most, rungs + 1)  # one beyond what the total allows: the best value that is not taken


def _curve(spec: RolloutBudgets, view: Outlook) -> tuple[int, Floats]:
    """The law of the marginal values and its numbers, a row per prompt."""
    curve = np.zeros((len(spec.prompts), 5))
    if spec.value == "posterior" and view.alpha is not None and view.beta is not None:
        beliefs(view.alpha, view.beta, view.won, view.seen, curve)
        return BELIEF, curve
    rate = np.zeros(len(curve)) if view.rate is None else view.rate
    if spec.value in LAWS:
        norm = spec.prompts.gradient_norm
        weight = 1.0 if norm is None else norm**2
        if spec.value == "gvm":
            with np.errstate(divide="ignore"):  # at rate 0 the divisor is infinite and the weight 0
                curve[:, 0] = weight / (rate + GVM_ALPHA / rate ** (GVM_BETA - 1))
        else:
            curve[:, 0] = weight * rate * (1 - rate) * (4.0 if spec.value == "vip" else 1.0)
        return LAWS[spec.value], curve
    wrong = 1 - rate
    for place, column in enumerate((rate * wrong**3, rate**2 * wrong**2, rate, wrong, 1.0)):
        curve[:, place] = column
    if spec.prompts.drawn is not None:
        curve[view.won < view.seen, 0] = 0.0  # a failure is there already: further successes reveal nothing
        curve[view.won > 0, 1] = 0.0
    return RATE, curve


def table(run: Steps, top: Integers, look: Callable[[], None]) -> Floats:
    """(prompts × rungs) what counts are worth, from the first allowed rung on. `look` is called every `BLOCK` values,
    and raises where there is no more time."""
    spec, step = run.spec, run.spec.multiple_of
    # One beyond the top, where there is one: the best step not taken may be out of reach.
    width = min(int(top.max(initial=0)) + 2, int((run.top - run.start).max(initial=0)) + 1)
    if run.law in (BELIEF, RATE) and spec.table is None:
        values, block = np.empty((run.size, width)), max(BLOCK // max(run.size, 1), 1)
        for first in range(0, width, block):
            if first:
                look()
            part = np.empty((run.size, min(block, width - first)))
            tabulate(run.law, step, run.view.seen, run.curve, run.state, run.place, run.top, part)
            values[:, first : first + block] = part
        return values
    rungs = np.minimum(run.start[:, None] + np.arange(width), run.top[:, None])
    if spec.table is not None:
        return np.take_along_axis(spec.table, rungs * step, axis=1)
    rollouts = rungs * float(step)
    weight = run.curve[:, :1]
    return -weight / rollouts if run.law == RECIPROCAL else -weight * ((rollouts - 1) / rollouts**2)
