"""Rollout budgets by enumeration, with values from moments of the Beta distribution in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import equipoise as eq


def moment(alpha: Fraction, beta: Fraction, ones: int, zeros: int) -> Fraction:
    """E[p^ones·(1 − p)^zeros] under Beta(alpha, beta)."""
    value = Fraction(1)
    for step in range(ones):
        value *= alpha + step
    for step in range(zeros):
        value *= beta + step
    for step in range(ones + zeros):
        value /= alpha + beta + step
    return value


def value(spec: Any, prior: Any, prompt: int, count: int) -> Fraction | None:
    """What `count` rollouts of a prompt are worth by the definition; None where that is not allowed."""
    prompts = spec.prompts
    drawn = 0 if prompts.drawn is None else int(prompts.drawn[prompt])
    won = 0 if prompts.drawn_successes is None else int(prompts.drawn_successes[prompt])
    if count < max(spec.least, drawn) or count > spec.most or count % spec.multiple_of:
        return None
    if spec.value == "table":
        return Fraction(float(spec.table[prompt, count]))
    norm = Fraction(1 if prompts.gradient_norm is None else float(prompts.gradient_norm[prompt]))
    if prompts.success_rate is not None:
        rate = Fraction(float(prompts.success_rate[prompt]))
        alpha = beta = None
    else:
        successes, trials = int(prompts.successes[prompt]), int(prompts.trials[prompt])
        alpha = Fraction(prior.alpha) + successes
        beta = Fraction(prior.beta) + trials - successes
        rate = alpha / (alpha + beta)
    if spec.value == "neyman":
        return -(norm**2) * rate * (1 - rate) / count
    if spec.value == "vip":
        return -4 * norm**2 * rate * (1 - rate) * Fraction(count - 1, count**2)
    if spec.value == "gvm":
        return Fraction(0) if rate == 0 else -(norm**2) / (rate + Fraction(1, 1000) / rate) / count
    further = count - drawn

    def both(ones: int, zeros: int) -> Fraction:
        """E[p^ones q^zeros · 1(both outcomes are out after the further rollouts, and were not before)]."""

        def mean(more_ones: int, more_zeros: int) -> Fraction:
            if spec.value == "posterior":
                assert alpha is not None and beta is not None
                return moment(alpha + won, beta + drawn - won, ones + more_ones, zeros + more_zeros)
            return rate ** (ones + more_ones) * (1 - rate) ** (zeros + more_zeros)

        if drawn and 0 < won < drawn:
            return Fraction(0)
        if drawn and won == drawn:
            return mean(0, 0) - mean(further, 0)
        if drawn:
            return mean(0, 0) - mean(0, further)
        return mean(0, 0) - mean(further, 0) - mean(0, further) if further else Fraction(0)

    return both(1, 2)


def best(spec: Any, prior: Any) -> Fraction | None:
    """The largest total value over all allowed counts; None where there is no feasible plan."""
    size = len(spec.prompts)
    choices = [
        [(count, worth) for count in range(spec.most + 1) if (worth := value(spec, prior, prompt, count)) is not None]
        for prompt in range(size)
    ]
    top: Fraction | None = None
    for chosen in product(*choices):
        counts = [count for count, _ in chosen]
        if not _allowed(spec, counts):
            continue
        total = sum((worth for _, worth in chosen), Fraction(0))
        top = total if top is None or total > top else top
    return top


def _allowed(spec: Any, counts: list[int]) -> bool:
    if spec.total is not None and sum(counts) != spec.total:
        return False
    if spec.token_budget is not None:
        tokens = [Fraction(repr(float(size))) for size in spec.prompts.tokens]
        if sum((size * count for size, count in zip(tokens, counts, strict=True)), Fraction(0)) > Fraction(
            repr(float(spec.token_budget))
        ):
            return False
    if spec.groups is not None:
        for row, name in enumerate(spec.groups.name):
            given = sum(count for count, group in zip(counts, spec.prompts.group, strict=True) if group == name)
            if spec.groups.least is not None and given < spec.groups.least[row]:
                return False
            if spec.groups.most is not None and given > spec.groups.most[row]:
                return False
    return True


def solved(spec: eq.Spec[Any]) -> Any:
    """The exact plan, or None where the spec is infeasible."""
    try:
        return eq.solve(spec, "exact")
    except eq.InfeasibleError:
        return None
