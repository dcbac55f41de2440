"""Which experts take which token in one batch of a mixture-of-experts layer, under hard capacities.

The task is a transportation problem, whose linear program has whole vertices (Hoffman and Kruskal, 1956), so
prices of the experts' places prove the optimum. BIP (arXiv 2502.15451) and Quantile Balancing look for the same
prices approximately.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Strict, Tag, model_validator

from .arrays import ArrayRule, Counts, Flags, Floats, Integers, axis_error
from .errors import Fault
from .scalars import PLAIN, Count, Real
from .sources import LARGEST_ARRAY
from .spec import Broken, Plan, Spec, above, below, differs, misshapen

LARGEST_SCORE = 1e100
"""Finite scores have at most this magnitude, so that no sum of them overflows."""
LARGEST_PRICE = 1e200
"""Prices have at most this magnitude: they are sums of differences of scores, and no sum of them overflows either."""
LARGEST_CHOICE = 65_536
"""Experts that a token may get, far above any model's."""
FEW_CHOICES = 32
"""Experts per token up to which comparing each with each is quicker than sorting them."""
TIE = 1e-11
"""Relative to the scores of a token and the dearest price: how close two experts are to count as a tie."""

Scores = Annotated[Floats, ArrayRule(dimensions=(2,), least=-LARGEST_SCORE, most=LARGEST_SCORE, minus_infinity=True)]
Choices = Annotated[Integers, ArrayRule(whole=True, least=-1, dimensions=(2,))]


def _capacity_form(value: Any) -> str:
    listed = isinstance(value, (list, tuple, Mapping)) or getattr(value, "ndim", 0) > 0
    return "~each" if listed else "~one"


class AssignmentPlan(Plan):
    """Experts of each token.

    experts: (tokens × experts_per_token) distinct in a row, by descending score; −1 throughout the rows of padding.
    prices: (experts,) at least 0, in units of the scores, to be subtracted from them: a token takes the experts with
        the largest scores − prices, up to ties, which prices alone do not break. An optimal plan holds the least
        prices that prove it; experts with places left cost nothing.
    load: (experts,) tokens that each takes.
    max_violation: max load / mean load − 1; 0 if nothing is assigned.
    """

    kind: Literal["expert_assignment"] = "expert_assignment"
    experts: Choices
    prices: Annotated[Floats, ArrayRule(most=LARGEST_PRICE)]
    load: Counts
    max_violation: Real

    axes: ClassVar = {"experts": ("tokens", "choices"), "prices": ("experts",), "load": ("experts",)}


class ExpertAssignment(Spec[AssignmentPlan]):
    """Which experts take which token, so that the scores add up to the most that the capacities allow.

    Maximise Σ scores[i,j]·x[i,j] over x in {0, 1}, with Σ_j x[i,j] = experts_per_token for every valid token i and
    Σ_i x[i,j] ≤ capacity[j] for every expert j; x[i,j] = 0 where the score is −inf.
    """

    kind: Literal["expert_assignment"] = "expert_assignment"
    scores: Scores
    """(tokens × experts) router scores; −inf forbids a pair."""
    experts_per_token: Annotated[int, Strict(), Field(ge=1, le=LARGEST_CHOICE), PLAIN]
    """Experts that every valid token gets."""
    capacity: (
        Annotated[Annotated[Count, Tag("~one")] | Annotated[Counts, Tag("~each")], Discriminator(_capacity_form)] | None
    ) = None
    """Tokens that an expert takes at most, one number for all or one per expert; if absent, the least that could do:
    valid tokens × experts_per_token / experts, rounded up."""
    valid: Flags | None = None
    """(tokens,) false for padding, which gets no expert; all true if absent."""
    prices: Annotated[Floats, ArrayRule(least=0, most=LARGEST_PRICE)] | None = None
    """(experts,) prices to start from, such as those of the last batch. The exact method does not need them and its
    answer does not depend on them."""

    sense = "maximise"
    unit = "router score"

    @model_validator(mode="after")
    def _consistent(self) -> ExpertAssignment:
        if self.tokens * self.experts_per_token > LARGEST_ARRAY:
            limit = LARGEST_ARRAY // self.tokens
            raise Fault(
                f"must be at most {limit} for {self.tokens} tokens, got {self.experts_per_token}", "experts_per_token"
            )
        if self.valid is not None and len(self.valid) != self.tokens:
            raise axis_error("valid", len(self.valid), "tokens", self.tokens)
        if isinstance(self.capacity, np.ndarray) and len(self.capacity) != self.experts:
            raise axis_error("capacity", len(self.capacity), "experts", self.experts)
        if self.prices is not None and len(self.prices) != self.experts:
            raise axis_error("prices", len(self.prices), "experts", self.experts)
        return self

    @property
    def tokens(self) -> int:
        """Rows of `scores`, padding included."""
        return len(self.scores)

    @property
    def experts(self) -> int:
        """Columns of `scores`; a list without rows has none, and the other fields tell."""
        if self.scores.shape[1] or self.tokens:
            return self.scores.shape[1]
        if isinstance(self.capacity, np.ndarray):
            return len(self.capacity)
        return 0 if self.prices is None else len(self.prices)

    def real_tokens(self) -> Integers:
        """Rows of `scores` that are no padding."""
        return np.arange(self.tokens) if self.valid is None else np.flatnonzero(self.valid)

    def places(self, experts: int | None = None) -> Integers:
        """(experts,) tokens that each expert takes at most; of so many experts, where the spec does not tell."""
        width = self.experts if experts is None else experts
        if self.capacity is not None:
            return np.broadcast_to(np.asarray(self.capacity, np.int64), width)
        needed = len(self.real_tokens()) * self.experts_per_token
        return np.full(width, -(-needed // max(width, 1)))

    def demands(self, plan: AssignmentPlan) -> Iterator[Broken]:
        """Experts per token, forbidden pairs, capacities."""
        wrong = self._misshapen(plan)
        yield from wrong
        if wrong:
            return
        if not self._well_chosen(plan.experts):
            yield from self._choice_rules(plan.experts)
        yield from above("capacity", "load", self._load(plan), self.places(self._width(plan)))

    def reports(self, plan: AssignmentPlan) -> Iterator[Broken]:
        """The order of experts, loads, and prices: at least 0, and the least where they prove the plan optimal."""
        if self._misshapen(plan):
            return
        yield from self._order_rules(plan.experts)
        load = self._load(plan)
        yield from differs("load", "load", plan.load, load)
        heaviest = np.array([_excess(load)])
        yield from differs("max_violation", "max_violation", np.array([plan.max_violation]), heaviest, size=1.0)
        yield from below("prices", "prices", plan.prices, 0.0)
        if (plan.prices > 0).any():
            yield from self._price_rules(plan)

    def _width(self, plan: AssignmentPlan) -> int:
        """Experts: without tokens, a list of scores does not say how many there are."""
        return self.experts if self.tokens or self.experts else len(plan.load)

    def _misshapen(self, plan: AssignmentPlan) -> list[Broken]:
        width = self._width(plan)
        wrong = [*misshapen("prices", plan.prices, (width,)), *misshapen("load", plan.load, (width,))]
        if self.tokens or plan.experts.size:
            wrong += misshapen("experts", plan.experts, (self.tokens, self.experts_per_token))
        return wrong

    def _well_chosen(self, experts: Integers) -> bool:
        """Whether no choice breaks a rule, found out without telling which does."""
        if self.valid is not None:
            if (experts[~self.valid] != -1).any():
                return False
            experts = experts[self.valid]
        if not experts.size:
            return True
        if experts.min() < 0 or experts.max() >= self.experts:
            return False
        if experts.shape[1] <= FEW_CHOICES:
            places = np.ascontiguousarray(experts.T)
            distinct = not any((places[step:] == places[:-step]).any() for step in range(1, len(places)))
        else:
            distinct = bool((np.diff(np.sort(experts, axis=1), axis=1) > 0).all())
        return distinct and not np.isneginf(self._scores_of(experts)).any()

    def _scores_of(self, experts: Integers) -> Floats:
        """The scores of choices that are there, for the tokens that count."""
        first = self.real_tokens() * self.experts
        return self.scores.reshape(-1).take(experts + first[:, None])

    def _choice_rules(self, experts: Integers) -> Iterator[Broken]:
        if not experts.size:
            return
        padding = np.ones(self.tokens, np.bool_)
        padding[self.real_tokens()] = False
        for token, place in np.argwhere((experts != -1) & padding[:, None]).tolist():
            message = f"is {experts[token, place]}, must be -1: the token is padding"
            yield Broken("padding", ("experts", token, place), 1.0, message)
        there = self._there(experts)
        for token, place in np.argwhere(~there & ~padding[:, None]).tolist():
            message = f"is {experts[token, place]}, must be an expert, 0 to {self.experts - 1}"
            yield Broken("experts_per_token", ("experts", token, place), 1.0, message)
        earlier = np.sort(experts, axis=1)
        twice = ((np.diff(earlier, axis=1) == 0) & (earlier[:, 1:] >= 0)).any(axis=1)
        for token in np.flatnonzero(twice).tolist():
            yield Broken("distinct", ("experts", token), 1.0, f"is {experts[token].tolist()}, must be distinct")
        score = self._gathered(experts)
        for token, place in np.argwhere(there & np.isneginf(score) & ~padding[:, None]).tolist():
            message = f"is {experts[token, place]}, which the score -inf forbids"
            yield Broken("forbidden", ("experts", token, place), 1.0, message)

    def _order_rules(self, experts: Integers) -> Iterator[Broken]:
        there, score = self._there(experts), self._gathered(experts)
        rises = (score[:, 1:] > score[:, :-1]) & there[:, 1:] & there[:, :-1]
        for token, place in np.argwhere(rises).tolist():
            message = "has a larger score than the expert before it"
            amount = float(score[token, place + 1] - score[token, place])
            yield Broken("order", ("experts", token, place + 1), amount, message)

    def _price_rules(self, plan: AssignmentPlan) -> Iterator[Broken]:
        """Prices that prove the plan optimal are the least: each is kept up by a token that would else come too."""
        objective = self.objective(plan)
        if not abs(self.bound(plan) - objective) <= 1e-9 * abs(objective):
            return
        scores, prices = self.scores[self.real_tokens()], plan.prices
        wanted, places = np.zeros(len(prices), np.int64), self.places(len(prices))
        if len(scores):
            reduced = scores - prices
            last = -np.partition(-reduced, self.experts_per_token - 1, axis=1)[:, self.experts_per_token - 1]
            size = np.abs(np.where(np.isfinite(scores), scores, 0.0)).max(axis=1) + prices.max()
            # What the objective's own rounding hides, no proof of it can see.
            near = last - TIE * size - 4 * np.finfo(np.float64).eps * abs(objective)
            wanted = (reduced >= near[:, None]).sum(axis=0)
            yield from self._clearing(plan, reduced, near)
        for expert in np.flatnonzero((prices > 0) & (wanted <= places)).tolist():
            message = (
                f"is {prices[expert]:.10g}, and a lower price proves as much: "
                f"demand for the expert is {wanted[expert]}, its capacity {places[expert]}"
            )
            yield Broken("least price", ("prices", expert), float(prices[expert]), message)

    def _clearing(self, plan: AssignmentPlan, reduced: Floats, last: Floats) -> Iterator[Broken]:
        """At prices that clear, every token has experts that are among the best for it."""
        rows = self.real_tokens()
        experts = plan.experts[rows]
        if not ((experts >= 0) & (experts < len(plan.prices))).all():
            return
        own = np.take_along_axis(reduced, experts, axis=1)
        for row, place in np.argwhere(own < last[:, None]).tolist():
            expert = int(experts[row, place])
            message = f"is {plan.prices[expert]:.10g}, at which token {rows[row]} would rather go elsewhere"
            yield Broken("clearing price", ("prices", expert), float(last[row] - own[row, place]), message)

    def objective(self, plan: AssignmentPlan) -> float:
        """Σ scores of the assigned pairs."""
        return math.fsum(self._gathered(plan.experts)[self._there(plan.experts)])

    def bound(self, plan: AssignmentPlan) -> float:
        """Weak duality: Σ_i (the k largest of scores[i,:] − prices) + capacity·prices bounds every plan from above.

        Every rounded step is rounded upward; where all differences are exact, so is the bound.
        """
        if (plan.prices < 0).any():
            return math.inf
        scores, chosen = self.scores[self.real_tokens()], self.experts_per_token
        places = zip(plan.prices.tolist(), self.places(len(plan.prices)).tolist(), strict=True)
        terms = [_upward(Fraction(price) * count) for price, count in places]
        if len(scores):
            if (np.isfinite(scores).sum(axis=1) < chosen).any():
                return -math.inf  # no plan at all
            surplus = _difference_upward(scores, plan.prices)
            terms += (-np.partition(-surplus, chosen - 1, axis=1)[:, :chosen]).ravel().tolist()
        total = math.fsum(terms)
        return math.nextafter(total, math.inf) if math.fsum([*terms, -total]) > 0 else total

    def magnitude(self, plan: AssignmentPlan) -> float:
        """Σ |scores| of the assigned pairs, and what all places cost: scores and surpluses have either sign."""
        scores = self._gathered(plan.experts)[self._there(plan.experts)]
        return math.fsum(np.abs(scores)) + math.fsum(plan.prices * self.places(len(plan.prices)))

    def measures(self, plan: AssignmentPlan) -> dict[str, float]:
        """How even the load is, and what does not fit or was left out."""
        load = self._load(plan)
        needed = len(self.real_tokens()) * self.experts_per_token
        return {
            "max load / mean load": _excess(load) + 1,
            "tokens over capacity": float(np.maximum(load - self.places(len(load)), 0).sum()),
            "places left unfilled": float(needed - load.sum()),
        }

    def _there(self, experts: Integers) -> NDArray[np.bool_]:
        return (experts >= 0) & (experts < self.experts)

    def _gathered(self, experts: Integers) -> Floats:
        """The score of each choice, −inf where it is none."""
        if not experts.size or not self.experts:
            return np.full(experts.shape, -np.inf)
        score = np.take_along_axis(self.scores, np.clip(experts, 0, self.experts - 1), axis=1)
        return np.where(self._there(experts), score, -np.inf)

    def _load(self, plan: AssignmentPlan) -> Integers:
        experts, width = plan.experts, self._width(plan)
        if self.valid is None and experts.size and experts.min() >= 0 and experts.max() < width:
            return np.bincount(experts.reshape(-1), minlength=width)
        return np.bincount(experts[self._there(experts)], minlength=width).astype(np.int64)


def _excess(load: Integers) -> float:
    """max load / mean load − 1."""
    total = int(load.sum())
    return (int(load.max()) * len(load) - total) / total if total else 0.0


def _upward(number: Fraction) -> float:
    near = float(number)
    return near if Fraction(near) >= number else math.nextafter(near, math.inf)


def _difference_upward(scores: Floats, prices: Floats) -> Floats:
    """scores − prices, each rounded upward unless it is exact (the rounding error by Knuth's two-sum)."""
    near = scores - prices
    with np.errstate(invalid="ignore"):  # −inf stays −inf, and has no error
        back = near - scores
        error = (scores - (near - back)) + (-prices - back)
    return np.where(error > 0, np.nextafter(near, np.inf), near)
