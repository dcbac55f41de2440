"""Plain top-k, first come first served under the capacity, and the published price updates that come close.

Sources: BIP (arXiv 2502.15451); Quantile Balancing, as training frameworks ship it, here from a cold start.
"""

from __future__ import annotations

import numpy as np

from ...specs.expert_assignment import AssignmentPlan, ExpertAssignment
from ..formulations.expert_assignment import AssignmentProgram
from ..program import Floats, Integers

BIP_ROUNDS = 4
QUANTILE_ROUNDS = 14


def top_k(spec: ExpertAssignment) -> AssignmentPlan:
    """Every token takes its best experts, whatever their capacity."""
    return _routed(AssignmentProgram(spec), np.zeros(spec.experts))


def greedy(spec: ExpertAssignment) -> AssignmentPlan:
    """One token after the other takes the best experts that still have a place; late ones may find too few."""
    form, wanted = AssignmentProgram(spec), spec.experts_per_token
    left = form.places.tolist()
    chosen = np.full((len(form.rows), wanted), -1)
    ranking = np.argsort(-form.scores, axis=1, kind="stable")
    counts = form.allowed.sum(axis=1).tolist()
    for token, (best, allowed) in enumerate(zip(ranking.tolist(), counts, strict=True)):
        taken = [expert for expert in best[:allowed] if left[expert] > 0][:wanted]
        chosen[token, : len(taken)] = taken
        for expert in taken:
            left[expert] -= 1
    return form.report(chosen, np.zeros(spec.experts))


def bip(spec: ExpertAssignment, rounds: int = BIP_ROUNDS) -> AssignmentPlan:
    """BIP: rounds of dual updates, both sides' prices at least 0, then top-k of scores − prices."""
    form = AssignmentProgram(spec)
    prices = np.zeros(spec.experts)
    for _ in range(rounds):
        token_prices = np.maximum(_next_best(form, form.scores - prices), 0.0)
        prices = np.maximum(_next_in_line(form, token_prices, prices), 0.0)
    return _routed(form, prices)


def quantile_balancing(
    spec: ExpertAssignment, rounds: int = QUANTILE_ROUNDS, start: Floats | None = None
) -> AssignmentPlan:
    """Quantile Balancing: the same without the floors; only differences of prices count, so the least becomes 0.

    start: (experts,) the last step's prices, which a training run starts from; none in a cold start.
    """
    form = AssignmentProgram(spec)
    prices = np.zeros(spec.experts) if start is None else start
    for _ in range(rounds):
        prices = _next_in_line(form, _next_best(form, form.scores - prices), prices)
    return _routed(form, prices - prices.min(initial=0.0))


def _next_best(form: AssignmentProgram, reduced: Floats) -> Floats:
    """(tokens,) the (k + 1)-th largest of each row: what a place beyond the token's own would be worth to it."""
    tokens, experts = reduced.shape
    if not tokens or not experts:
        return np.zeros(tokens)
    if form.allowed.all():
        last = max(experts - 1 - form.spec.experts_per_token, 0)
        return np.partition(reduced, last, axis=1)[:, last]
    following = np.minimum(form.spec.experts_per_token, form.allowed.sum(axis=1) - 1)  # the last, where all are taken
    ranked = np.sort(np.where(form.allowed, -reduced, np.inf), axis=1)
    found = -np.take_along_axis(ranked, np.maximum(following, 0)[:, None], axis=1)[:, 0]
    return np.where(np.isfinite(found), found, 0.0)


def _next_in_line(form: AssignmentProgram, token_prices: Floats, prices: Floats) -> Floats:
    """(experts,) the (capacity + 1)-th largest of each column: what the first token that finds no place would pay."""
    tokens = len(token_prices)
    waiting = form.places < tokens
    if waiting.all() and tokens and (form.places == form.places[:1]).all():
        place = int(form.places[0])
        columns = np.ascontiguousarray((token_prices[:, None] - form.scores).T)  # rows are quicker to partition
        found = -np.partition(columns, place, axis=1)[:, place]
        return np.where(np.isfinite(found), found, 0.0)
    ranked = np.sort(token_prices[:, None] - form.scores, axis=0)
    found = prices.copy()
    found[waiting] = -ranked[form.places[waiting], np.flatnonzero(waiting)]
    return np.where(np.isfinite(found), found, 0.0)


def _routed(form: AssignmentProgram, prices: Floats) -> AssignmentPlan:
    """Top-k of scores − prices, each row by descending score; −1 where too few pairs are allowed."""
    wanted = form.spec.experts_per_token
    ranking = _best(form.scores - prices, wanted)
    score = np.take_along_axis(form.scores, ranking, axis=1)
    order = np.argsort(-score, axis=1, kind="stable")
    chosen: Integers = np.take_along_axis(np.where(score > -np.inf, ranking, -1), order, axis=1)
    missing = wanted - chosen.shape[1]
    return form.report(np.pad(chosen, ((0, 0), (0, max(missing, 0))), constant_values=-1), prices)


def _best(reduced: Floats, wanted: int) -> Integers:
    """(tokens × k) the columns with the largest entries of each row, the first of equals first."""
    if not 0 < wanted < reduced.shape[1]:
        return np.argsort(-reduced, axis=1, kind="stable")[:, :wanted]
    last = np.partition(reduced, -wanted, axis=1)[:, -wanted, None]
    more = reduced > last
    spare = wanted - more.sum(axis=1, keepdims=True)
    equal = reduced == last
    chosen = more | (equal & (np.cumsum(equal, axis=1) <= spare))
    return np.nonzero(chosen)[1].reshape(len(reduced), wanted)


BASELINES = {
    "top-k": top_k,
    "greedy under capacity": greedy,
    f"BIP, {BIP_ROUNDS} rounds": bip,
    f"Quantile Balancing, {QUANTILE_ROUNDS} rounds": quantile_balancing,
}
