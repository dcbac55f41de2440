"""Expert assignment as a transportation program: one column per allowed pair, one row per token and per expert.

The matrix is that of a bipartite graph, totally unimodular: the relaxation has whole vertices. The answer of any
backend is then taken to the exact optimum of the scores, with the prices that prove it (`expert_prices.py`).
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...specs.errors import BackendError
from ...specs.expert_assignment import AssignmentPlan, ExpertAssignment
from ..answer import Answer
from ..expert_places import Places
from ..expert_prices import settle
from ..formulation import Conflict, Evidence, Explanation, Formulation, Shift
from ..program import Builder, Floats, Integers, Program

NAMED = 4
"""Tokens or experts that a message lists at most."""


class AssignmentProgram(Formulation[ExpertAssignment, AssignmentPlan]):
    """Expert assignment as a program, and back."""

    def __init__(self, spec: ExpertAssignment) -> None:
        super().__init__(spec)
        self.rows = spec.real_tokens()
        self.scores: Floats = spec.scores if spec.valid is None else spec.scores[self.rows]
        self.allowed: NDArray[np.bool_] = self.scores > -np.inf
        self.places = spec.places()
        self.moves = 0

    def formulate(self) -> Program:
        """Column `route` per allowed pair of a token that counts; rows `token` (= k) and `expert` (≤ capacity)."""
        token, expert = np.nonzero(self.allowed)
        wanted = self.spec.experts_per_token
        builder = Builder("maximise", integral=True)
        route = builder.columns("route", len(token), cost=self.scores[token, expert], upper=1.0, integer=True)
        tokens = builder.rows("token", len(self.rows), lower=wanted, upper=wanted, field="experts_per_token")
        experts = builder.rows("expert", len(self.places), upper=self.places, upper_field="capacity")
        builder.entries(np.stack([tokens[token], experts[expert]]), route)
        return builder.build()

    def interpret(self, answer: Answer) -> AssignmentPlan:
        """The experts of each token, made exactly optimal, and the least prices that prove it."""
        held = np.zeros(self.scores.shape, np.bool_)
        held[self.allowed] = answer.whole("route") > 0
        if (held.sum(axis=1) != self.spec.experts_per_token).any() or (held.sum(axis=0) > self.places).any():
            raise BackendError(f"{answer.backend} gave an answer that is no assignment")
        experts = np.nonzero(held)[1].reshape(len(held), self.spec.experts_per_token)
        settled = settle(self.scores, experts, self.places)
        self.moves = settled.moves
        return self.report(settled.experts, settled.prices)

    def report(self, experts: Integers, prices: Floats) -> AssignmentPlan:
        """The plan that gives the tokens these experts (−1 for none), with what it says of itself."""
        spec = self.spec
        rows = np.full((spec.tokens, spec.experts_per_token), -1)
        rows[self.rows] = experts
        load = np.bincount(experts[experts >= 0], minlength=spec.experts).astype(np.int64)
        total, heaviest = int(load.sum()), int(load.max(initial=0))
        excess = (heaviest * len(load) - total) / total if total else 0.0
        return AssignmentPlan(name=spec.name, experts=rows, prices=prices, load=load, max_violation=excess)

    def prove(self, plan: AssignmentPlan, answer: Answer) -> Evidence:
        """The dual bound at the plan's prices: the objective, and what tokens and places would still pay beyond it."""
        experts = plan.experts[self.rows]
        objective = math.fsum(np.take_along_axis(self.scores, experts, axis=1).ravel())
        reduced = self.scores - plan.prices
        chosen = self.spec.experts_per_token
        best = -np.partition(-reduced, chosen - 1, axis=1)[:, :chosen] if len(reduced) else reduced[:, :0]
        own = np.take_along_axis(reduced, experts, axis=1)
        # Summed over sorted rows, equal choices cancel exactly, whatever the size of the scores.
        regret = (np.sort(best, axis=1) - np.sort(own, axis=1)).ravel() if len(reduced) else np.zeros(0)
        empty = (self.places - plan.load) * plan.prices
        bound = objective + max(math.fsum([*regret.tolist(), *empty.tolist()]), 0.0)
        note = f"{self.moves} choices of {answer.backend}, which works within tolerances, were improved afterwards"
        return Evidence(objective, bound, "dual", (note,) if self.moves else ())

    def conflict(self) -> Conflict:
        """Fields that clash, found by flows: on the program, forbidden pairs are not bounds but absent."""
        spec, tokens = self.spec, len(self.rows)
        every = np.ones(self.allowed.shape, np.bool_)
        roomy = np.full(spec.experts, tokens)
        wanted = spec.experts_per_token
        open_to_all = Places(every, wanted, self.places).fit()
        fields = ["experts_per_token"]
        if Places(every, wanted, roomy).fit():  # else there are too few experts, whatever the rest
            few = not Places(self.allowed, wanted, roomy).fit()
            if not few:
                fields.append("capacity")
            if few or open_to_all:
                fields.append("scores")
        shifts: dict[str, Shift] = {}
        if "capacity" in fields and (more := Places(self.allowed, wanted, self.places).least_raise()) is not None:
            shifts["capacity"] = Shift(upper=more)
        if (fewer := self._most_experts()) >= 1:
            shifts["experts_per_token"] = Shift(lower=wanted - fewer)
        if "scores" in fields and open_to_all:
            shifts["scores"] = Shift(upper=1)
        return Conflict(tuple(fields), shifts)

    def _most_experts(self) -> int:
        """How many experts per token would fit, by bisection; 0 if not even one. A default capacity falls with them."""
        fitting, clashing = 0, self.spec.experts_per_token
        while clashing - fitting > 1:
            middle = (fitting + clashing) // 2
            places = self.spec.replace(experts_per_token=middle).places()
            if Places(self.allowed, middle, places).fit():
                fitting = middle
            else:
                clashing = middle
        return fitting

    def explain(self, conflict: Conflict) -> Explanation:
        """What clashes, with the numbers of the spec, and the smallest change that mends it."""
        change, remedies = dict[str, float](), list[str]()
        for field, shift in conflict.shifts.items():
            if field == "scores":
                remedies.append("allow more pairs (a score above -inf)")
            elif field == "experts_per_token":
                change[field] = float(self.spec.experts_per_token - shift.lower)
                remedies.append(f"lower experts_per_token to {change[field]:g}")
            elif isinstance(self.spec.capacity, np.ndarray):  # a capacity per expert has no single new value
                remedies.append(f"raise each capacity by {shift.upper:g}")
            else:
                change[field] = float(self.places.max(initial=0) + shift.upper)
                verb = "set" if self.spec.capacity is None else "raise"
                remedies.append(f"{verb} capacity to {change[field]:g}")
        clash = self._clash(conflict)
        return Explanation(f"{clash}; {' or '.join(remedies)}" if remedies else clash, change)

    def _clash(self, conflict: Conflict) -> str:
        if "capacity" in conflict.fields:
            return self._crowded() if "scores" in conflict.fields else self._short()
        if "scores" in conflict.fields:
            return self._few_allowed()
        experts = self.spec.experts
        return f"experts_per_token is {self.spec.experts_per_token}, but there {_are(experts, 'expert')}"

    @cached_property
    def _each(self) -> str:
        """What an expert holds, in words."""
        if isinstance(self.spec.capacity, np.ndarray):
            return "capacity"
        return f"capacity {self.places.max(initial=0)}{' (by default)' if self.spec.capacity is None else ''}"

    def _short(self) -> str:
        tokens, wanted = len(self.rows), self.spec.experts_per_token
        usable = np.minimum(self.places, tokens)  # a token takes an expert once
        places, experts = int(usable.sum()), self.spec.experts
        if isinstance(self.spec.capacity, np.ndarray):
            cut = f" (at most {_count(tokens, 'token')} each)" if (usable < self.places).any() else ""
            there = f"capacity adds up to {_count(places, 'place')}{cut}"
        else:
            there = f"{self._each} × {_count(experts, 'expert')} = {_count(places, 'place')}"
        return f"{there}, but {_count(tokens, 'token')} × {_count(wanted, 'expert')} need {tokens * wanted}"

    def _few_allowed(self) -> str:
        counts, wanted = self.allowed.sum(axis=1), self.spec.experts_per_token
        first = int(np.argmax(counts < wanted))
        others = int((counts < wanted).sum()) - 1
        more = f" (and {_count(others, 'other token')} too few)" if others else ""
        return (
            f"scores[{self.rows[first]}] allows {_count(int(counts[first]), 'expert')} (the rest are -inf), "
            f"but experts_per_token is {wanted}{more}"
        )

    def _crowded(self) -> str:
        """The experts that too many tokens are left with."""
        crowd = Places(self.allowed, self.spec.experts_per_token, self.places).crowd()
        held = f"{self._each} × {_count(len(crowd.experts), 'expert')} ({_listed(crowd.experts)})"
        if isinstance(self.spec.capacity, np.ndarray):
            held = f"capacity of {'expert' if len(crowd.experts) == 1 else 'experts'} {_listed(crowd.experts)}"
        places = _count(int(self.places[crowd.experts].sum()), "place")
        tokens = f"{_count(len(crowd.tokens), 'token')} ({_listed(self.rows[crowd.tokens])})"
        return f"{held} = {places}, but forbidden pairs leave {tokens} to need {crowd.needed} of them"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _are(number: int, thing: str) -> str:
    return f"{'is' if number == 1 else 'are'} {_count(number, thing)}"


def _listed(numbers: Integers) -> str:
    shown = ", ".join(map(str, numbers[:NAMED].tolist()))
    return f"{shown}, …" if len(numbers) > NAMED else shown


FORMULATION = AssignmentProgram
