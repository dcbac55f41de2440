"""Rollout budgets as a separable program: one column per prompt and further rollout, worth its marginal value.

Where a prompt's values are concave the columns fill in the right order by themselves (piecewise linear, exact
at the integers); where they are not, one binary per count chooses (multiple choice).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...specs.errors import UnsupportedError
from ...specs.rollout_budgets import LARGEST_BUDGET, LARGEST_TABLE, LARGEST_TOTAL, RolloutBudgets, RolloutPlan
from ..answer import Answer
from ..doubt import Doubt
from ..formulation import Conflict, Evidence, Explanation, Formulation
from ..program import Builder, Floats, Integers, Program
from ..purse import COARSE, Purse, purse
from ..rollout_beliefs import fit_notes
from ..rollout_conflicts import least_tokens, rollout_conflict
from ..rollout_values import gradient_share, outlook, rollout_values

SEARCH_GAP = 1e-3
"""The gap that `auto` asks for where the problem is a multiple choice."""


@dataclass(frozen=True)
class Ladder:
    """Each prompt's values, rung by rung, a rung being `multiple_of` rollouts.

    start: (prompts,) the first allowed rung. gain: (prompts × rungs) value of each further rung, 0 where not
    allowed. there: which are allowed. values: (prompts × rungs + 1), −inf where not allowed.
    concave: (prompts,) whether the gains never rise.
    """

    start: Integers
    gain: Floats
    there: NDArray[np.bool_]
    values: Floats
    concave: NDArray[np.bool_]


class RolloutProgram(Formulation[RolloutBudgets, RolloutPlan]):
    """Rollout budgets as a program, and back."""

    def __init__(self, spec: RolloutBudgets) -> None:
        super().__init__(spec)
        self.view = outlook(spec)
        tokens = spec.prompts.tokens if spec.token_budget is not None else None
        self.cost: Floats = np.ones(len(spec.prompts)) if tokens is None else tokens

    @cached_property
    def purse(self) -> Purse:
        """The token budget and what a rung of each prompt takes of it, in whole units."""
        return purse(self.cost, self.spec.multiple_of, self.spec.token_budget or 0.0)

    @cached_property
    def doubt(self) -> Doubt | None:
        """Where the optimum lies, if nothing but a token budget ties prompts of concave values; else None."""
        spec, ladder = self.spec, self.ladder
        if spec.token_budget is None or spec.groups is not None or not ladder.concave.all():
            return None
        money = self.purse
        room, top = money.room - money.spent(ladder.start), spec.most // spec.multiple_of - ladder.start
        if room < 0 or (top < 0).any():
            return None  # there is no plan at all
        high = np.minimum(top, room // money.cost)
        return Doubt(lambda prompt, rung: ladder.values[prompt, rung], np.zeros_like(high), high, money.cost, room)

    @cached_property
    def ladder(self) -> Ladder:
        """The values of all counts. Raises `UnsupportedError` where there are too many of them."""
        spec = self.spec
        if self._vast:
            raise UnsupportedError(
                f"the program of {len(spec.prompts)} prompts with up to {spec.most} rollouts each is too large; "
                "set a smaller most, or leave the backend out"
            )
        return self._ladder()

    @property
    def _vast(self) -> bool:
        return len(self.spec.prompts) * (self.spec.most + 1) > LARGEST_TABLE

    def conflict(self) -> Conflict | None:
        """The conflict among the rules; what counts are worth has no part in it."""
        return rollout_conflict(self.spec)

    def formulate(self) -> Program:
        """Columns: `rungs` (prompts), and what they are worth: `extra` per further rung, or `choice` per count.

        Under a token budget alone, only the rungs that the Lagrangian bound leaves in doubt have columns.
        """
        program = self._stated()
        if self.doubt is None or not len(self.spec.prompts):
            return program
        counts, (low, high) = self.doubt.counts, self.window
        taken = [np.arange(first, last) < count for first, last, count in zip(low, high, counts, strict=True)]
        return program.starting({"rungs": self.ladder.start + counts, "extra": np.concatenate(taken)})

    @cached_property
    def window(self) -> tuple[Integers, Integers]:
        """(prompts,) the first and the last rung above `start` that the program can choose."""
        if self.doubt is not None:
            return self.doubt.windows(self.doubt.achieved)
        top = self.ladder.there.sum(axis=1)
        return np.zeros_like(top), top

    def _stated(self) -> Program:
        spec, ladder = self.spec, self.ladder
        concave, prompts = ladder.concave, len(spec.prompts)
        search = spec.token_budget is not None or not concave.all()
        builder = Builder(
            "maximise",
            offset=math.fsum(ladder.values[np.arange(prompts), self.window[0]][concave]),
            gap=SEARCH_GAP if search else 0.0,
            integral=not search,
        )
        self._worth_rows(builder, self._rules(builder))
        return builder.build()

    def _rules(self, builder: Builder) -> Integers:
        """What counts are allowed; the columns of the rungs."""
        spec, step = self.spec, self.spec.multiple_of
        prompts, least, most = len(spec.prompts), -(-spec.least // step), spec.most // step
        # No multiple may lie between the two: a column's own bounds must not contradict each other.
        upper, field = (most, "most") if least <= most else (least, None)
        rungs = builder.columns(
            "rungs", prompts, lower=least, upper=upper, integer=True, lower_field="least", upper_field=field
        )
        if least > most:
            builder.entries(builder.rows("most", prompts, upper=most, upper_field="most"), rungs)
        if spec.prompts.drawn is not None:
            drawn = builder.rows("drawn", prompts, lower=-(-spec.prompts.drawn // step), lower_field="prompts.drawn")
            builder.entries(drawn, rungs)
        self._budget_rows(builder, rungs)
        self._group_rows(builder, rungs)
        return rungs

    def _budget_rows(self, builder: Builder, rungs: Integers) -> None:
        spec, step = self.spec, self.spec.multiple_of
        if spec.total is not None:
            row = builder.rows("total", 1, lower=spec.total, upper=spec.total, field="total")
            builder.entries(row, rungs, step)
            if step > 1:  # what a total leaves over is nothing, as long as every count is a multiple
                rest = builder.columns(
                    "rest", 1, upper=0.0, lower_field="multiple_of", upper_field="multiple_of", integer=True
                )
                builder.entries(row, rest)
        elif spec.token_budget is not None:
            row = builder.rows("token_budget", 1, upper=self.purse.room, field="token_budget")
            builder.entries(row, rungs, self.purse.cost)

    def _group_rows(self, builder: Builder, rungs: Integers) -> None:
        groups, member = self.spec.groups, self.spec.membership()
        if groups is None:
            return
        for name, bounds in (("least", groups.least), ("most", groups.most)):
            if bounds is not None:
                lower, upper = (bounds, np.inf) if name == "least" else (-np.inf, bounds)
                rows = builder.rows(f"group_{name}", len(groups), lower=lower, upper=upper, field=f"groups.{name}")
                builder.entries(rows[member], rungs, self.spec.multiple_of)

    def _worth_rows(self, builder: Builder, rungs: Integers) -> None:
        """Ties the rungs to the columns that carry their value. The ends of the ladder are `least` and `most`."""
        ladder = self.ladder
        low, high = self.window
        base = np.where(ladder.concave, ladder.start + low, 0)
        worth = builder.rows("worth", len(rungs), lower=base, upper=base, lower_field="least", upper_field="most")
        builder.entries(worth, rungs)
        every = np.arange(ladder.there.shape[1])
        wanted = (every >= low[:, None]) & (every < high[:, None])
        prompt, rung = np.nonzero(wanted & ladder.concave[:, None])
        extra = builder.columns("extra", len(prompt), cost=ladder.gain[prompt, rung], upper=1.0)
        builder.entries(worth[prompt], extra, -1.0)
        if ladder.concave.all():
            return
        prompt, rung = np.nonzero(np.isfinite(ladder.values) & ~ladder.concave[:, None])
        choice = builder.columns("choice", len(prompt), cost=ladder.values[prompt, rung], upper=1.0, integer=True)
        builder.entries(worth[prompt], choice, -(ladder.start[prompt] + rung))
        chosen, member = np.unique(prompt, return_inverse=True)
        one = builder.rows("one_choice", len(chosen), lower=1.0, upper=1.0)
        builder.entries(one[member], choice)

    def interpret(self, answer: Answer) -> RolloutPlan:
        """Rollouts per prompt, and the prices that prove them."""
        return self.report(answer.whole("rungs"))

    def report(self, rungs: Integers) -> RolloutPlan:
        """The plan that takes each prompt up so many rungs, with what it says of itself."""
        rollouts = rungs * self.spec.multiple_of
        price, group_price = self._prices(rungs)
        return RolloutPlan(
            name=self.spec.name,
            rollouts=rollouts,
            price=price,
            group_price=group_price,
            expected_gradient_share=gradient_share(self.spec, self.view, rollouts),
            prior=self.view.prior,
        )

    def _prices(self, rungs: Integers) -> tuple[float, Floats | None]:
        """The best gain per unit of budget that was left; and what groups at a bound pay beside that."""
        ladder, spec = self.ladder, self.spec
        unit, place = self.cost * spec.multiple_of, (rungs - ladder.start)[:, None]
        framed = np.pad(ladder.values, ((0, 0), (1, 1)), constant_values=-np.inf)
        before, here, after = (np.take_along_axis(framed, place + shift, axis=1)[:, 0] for shift in range(3))
        gained, given_up = (after - here) / unit, (here - before) / unit
        if spec.groups is None:
            return self._price(gained), None
        member, size, step = spec.membership(), len(spec.groups), spec.multiple_of
        total = np.bincount(member, weights=rungs * step, minlength=size)
        next_gain = np.array([gained[member == group].max(initial=-np.inf) for group in range(size)])
        last_gain = np.array([given_up[member == group].min(initial=np.inf) for group in range(size)])
        least, most = self._group_bounds()
        full, short = total + step > most, total - step < least
        price = self._price(next_gain[~full])
        own = np.where(full, np.maximum(price, next_gain), price)
        own = np.where(short, np.minimum(own, last_gain), own)
        return price, own - price

    def _price(self, gained: Floats) -> float:
        """The best gain; never negative where the budget need not be spent, 0 if there is none."""
        best = float(gained.max(initial=-np.inf))
        if not math.isfinite(best):
            return 0.0
        return best if self.spec.total is not None else max(best, 0.0)

    def _group_bounds(self) -> tuple[Floats, Floats]:
        groups = self.spec.groups
        size = 0 if groups is None else len(groups)
        least = np.full(size, -np.inf) if groups is None or groups.least is None else groups.least.astype(float)
        most = np.full(size, np.inf) if groups is None or groups.most is None else groups.most.astype(float)
        return least, most

    def prove(self, plan: RolloutPlan, answer: Answer) -> Evidence:
        """The Lagrangian bound at the plan's prices; where that leaves a gap, the search's bound if it is better."""
        ladder, spec, step = self.ladder, self.spec, self.spec.multiple_of
        place = plan.rollouts // step - ladder.start
        objective = math.fsum(np.take_along_axis(ladder.values, place[:, None], axis=1)[:, 0])
        rate = np.full(len(place), plan.price)
        room = plan.price * float(spec.total if spec.total is not None else spec.token_budget or 0.0)
        if plan.group_price is not None:
            rate = rate + plan.group_price[spec.membership()]
            least, most = self._group_bounds()
            paid = plan.group_price != 0
            room += math.fsum(plan.group_price[paid] * np.where(plan.group_price > 0, most, least)[paid])
        counts = (ladder.start[:, None] + np.arange(ladder.values.shape[1])) * step
        surplus = ladder.values - (rate * self.cost)[:, None] * counts
        bound = max(room + math.fsum(surplus.max(axis=1)), objective)
        if bound - objective <= 1e-9 * abs(objective):
            return Evidence(objective, bound, "threshold", self._notes())
        return Evidence(objective, max(min(bound, answer.bound), objective), "search", self._notes())

    def _notes(self) -> tuple[str, ...]:
        """What the numbers rest on, where that is weaker than it looks."""
        coarse = (COARSE,) if self.spec.token_budget is not None and self.purse.coarse else ()
        prior, trials = self.view.prior, self.spec.prompts.trials
        if prior is None or trials is None or self.spec.prior != "fit":
            return coarse
        return (*coarse, *fit_notes((prior.alpha, prior.beta), trials))

    def explain(self, conflict: Conflict) -> Explanation:
        """What clashes, with the numbers of the spec."""
        spec, prompts, step = self.spec, len(self.spec.prompts), self.spec.multiple_of
        if set(conflict.fields) == {"total", "multiple_of"} and spec.total is not None:
            low, high = spec.total // step * step, -(-spec.total // step) * step
            message = f"total {spec.total} is not a multiple of {step}; set total to {low} or {high}"
            return Explanation(message, {"total": float(low)})
        least, most = -(-spec.least // step) * step, spec.most // step * step
        if set(conflict.fields) == {"least", "most"}:
            message = f"no multiple of {step} lies between least {spec.least} and most {spec.most}"
            return Explanation(f"{message}; set least to {most} or most to {least}", {"least": most, "most": least})
        words = {
            "least": f"least {least} × {prompts} prompts = {least * prompts}",
            "most": f"most {most} × {prompts} prompts = {most * prompts}",
            "prompts.drawn": f"prompts.drawn already holds {int(self.view.seen.sum())} rollouts",
            "groups.least": f"groups.least adds up to {self._group_bounds()[0].sum():g}",
            "groups.most": f"groups.most adds up to {self._group_bounds()[1].sum():g}",
            "total": f"total is {spec.total}",
            "token_budget": f"token_budget is {spec.token_budget or 0:g}",
            "multiple_of": f"every count must be a multiple of {step}",
        }
        if "token_budget" in conflict.fields:
            floor = np.maximum(self.view.seen, spec.least)
            floor = -(-floor // step) * step
            words["least"] = f"least {least} for each of {prompts} prompts takes {float(self.cost @ floor):g} tokens"
        change = self._change(conflict)
        clash = ", but ".join(words[name] for name in conflict.fields)
        remedy = " or ".join(
            f"set {name} to {int(value) if float(value).is_integer() and value < 2**53 else value!r}"
            for name, value in change.items()
        )
        return Explanation(f"{clash}; {remedy}" if remedy else clash, change)

    def _change(self, conflict: Conflict) -> dict[str, float]:
        spec, step = self.spec, self.spec.multiple_of
        change: dict[str, float] = {}
        for name, shift in conflict.shifts.items():
            if name == "total" and spec.total is not None:
                if (mended := spec.total + shift.upper - shift.lower) <= LARGEST_TOTAL:
                    change[name] = float(mended)
            elif name == "token_budget" and spec.token_budget is not None:
                if (mended := least_tokens(spec)) <= LARGEST_BUDGET:
                    change[name] = mended
            elif name == "least" and -(-spec.least // step) >= shift.lower:
                mended = float((-(-spec.least // step) - shift.lower) * step)
                graded = mended >= (3 if spec.value == "vip" else 1) or step > 1  # a threshold decides: no table
                if graded or not self._vast:
                    change[name] = mended
            elif name == "most" and spec.table is None:  # a wider table would need more columns
                change[name] = float((spec.most // step + shift.upper) * step)
        return change

    def _ladder(self) -> Ladder:
        spec, step = self.spec, self.spec.multiple_of
        start = -(-np.maximum(self.view.seen, spec.least) // step)
        height = max(spec.most // step - int(start.min(initial=spec.most)), 0)
        first, single = rollout_values(spec, self.view, start * step, height * step)
        gain = single.reshape(len(start), height, step).sum(axis=2)
        there = start[:, None] + np.arange(1, height + 1) <= spec.most // step
        gain = np.where(there, gain, 0.0)
        values = first[:, None] + np.pad(np.cumsum(gain, axis=1), ((0, 0), (1, 0)))
        values[:, 1:][~there] = -np.inf
        rises = np.diff(gain, axis=1) > 1e-14 * np.abs(gain).max(initial=0.0)
        return Ladder(start, gain, there, values, ~(rises & there[:, 1:]).any(axis=1))


FORMULATION = RolloutProgram
