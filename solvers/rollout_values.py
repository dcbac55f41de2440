"""What rollouts are worth, one by one: the marginal values of every value function, for all prompts at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..specs.rollout_budgets import Beta, RolloutBudgets
from ..specs.rollout_worth import GVM_ALPHA, GVM_BETA
from .program import Floats, Integers
from .rollout_beliefs import fit_beta


@dataclass(frozen=True)
class Outlook:
    """What is believed about each prompt of a batch before the rollouts that are being planned.

    prior: the Beta prior behind the histories, None where rates are given.
    alpha, beta: (prompts,) the belief after history and draws; None where rates are given.
    rate: (prompts,) the expected success rate after the history; None where nothing is known.
    seen, won: (prompts,) rollouts already drawn in this step, and how many were rewarded.
    """

    prior: Beta | None
    alpha: Floats | None
    beta: Floats | None
    rate: Floats | None
    seen: Integers
    won: Integers


def outlook(spec: RolloutBudgets) -> Outlook:
    """The outlook on a batch; fits the prior to its history where the spec says so."""
    prompts = spec.prompts
    nothing = np.zeros(len(prompts), np.int64)
    seen = nothing if prompts.drawn is None else prompts.drawn
    won = nothing if prompts.drawn_successes is None else prompts.drawn_successes
    if prompts.successes is None or prompts.trials is None:
        return Outlook(None, None, None, prompts.success_rate, seen, won)
    prior = spec.prior
    if not isinstance(prior, Beta):
        alpha, beta = fit_beta(prompts.successes, prompts.trials)
        prior = Beta(alpha=alpha, beta=beta)
    alpha, beta = prior.alpha + prompts.successes, prior.beta + (prompts.trials - prompts.successes)
    return Outlook(prior, alpha + won, beta + (seen - won), alpha / (alpha + beta), seen, won)


def rollout_values(spec: RolloutBudgets, view: Outlook, start: Integers, height: int) -> tuple[Floats, Floats]:
    """(prompts,) the value of `start` rollouts, and (prompts × height) that of each single one after them."""
    if spec.table is not None:
        inside = np.minimum(start[:, None] + np.arange(height + 1), spec.most)
        table = np.take_along_axis(spec.table, inside, axis=1)
        return table[:, 0], np.diff(table, axis=1)
    if spec.value in ("neyman", "gvm", "vip"):
        losses = _variance(spec, view, start[:, None] + np.arange(height + 1.0))
        return -losses[:, 0], -np.diff(losses, axis=1)
    return _signal(spec, view, start, height)


def gradient_share(spec: RolloutBudgets, view: Outlook, rollouts: Integers) -> float | None:
    """The share of rollouts expected in groups with both outcomes; None where nothing is known about rates."""
    if view.rate is None:
        return None
    if not rollouts.any():
        return 0.0
    further = rollouts - view.seen
    no_failure, no_success = _power(view, further, True), _power(view, further, False)
    chance = 1 - np.where(view.won < view.seen, 0, no_failure) - np.where(view.won > 0, 0, no_success)
    chance = np.where(rollouts == 0, 0.0, chance)
    return float(np.clip((chance * rollouts).sum() / rollouts.sum(), 0.0, 1.0))


def _signal(spec: RolloutBudgets, view: Outlook, start: Integers, height: int) -> tuple[Floats, Floats]:
    """Values under `knapsack_rl` and `posterior`.

    A prompt's gradient is worth p·q² (q = 1 − p) once both outcomes have occurred. After k further rollouts
    without that, the next one is worth E[pᵏ⁺¹·q³] if only successes are out, E[p²·qᵏ⁺²] if only failures are, and
    their sum if nothing was out before, save that the very first rollout can have no effect and is worth nothing.
    Each is carried from k to k + 1 by its ratio: differences of the closed form would lose the digits of small ones.
    """
    further = int((start - view.seen).max(initial=0)) + height
    steps = np.arange(further)
    if spec.value == "posterior" and view.alpha is not None and view.beta is not None:
        a, b = view.alpha, view.beta
        total = a + b
        shared = a * b * (b + 1) / (total * (total + 1) * (total + 2) * (total + 3))
        below = (total + 4)[:, None] + steps
        after_success = _chain(shared * (b + 2), ((a + 1)[:, None] + steps) / below)
        after_failure = _chain(shared * (a + 1), ((b + 2)[:, None] + steps) / below)
    else:
        rate = np.zeros(len(start)) if view.rate is None else view.rate
        after_success = _chain(rate * (1 - rate) ** 3, np.repeat(rate[:, None], further, axis=1))
        after_failure = _chain(rate**2 * (1 - rate) ** 2, np.repeat((1 - rate)[:, None], further, axis=1))
    failed, succeeded = (view.won < view.seen)[:, None], (view.won > 0)[:, None]
    gains = np.where(failed, 0.0, after_success) + np.where(succeeded, 0.0, after_failure)
    gains[failed[:, 0] & succeeded[:, 0]] = 0.0
    gains[view.seen == 0, :1] = 0.0
    so_far = np.pad(np.cumsum(gains, axis=1), ((0, 0), (1, 0)))
    offset = (start - view.seen)[:, None]
    first = np.take_along_axis(so_far, offset, axis=1)[:, 0]
    return first, np.take_along_axis(gains, offset + np.arange(height), axis=1)


def _chain(first: Floats, ratios: Floats) -> Floats:
    """(prompts × steps) first, first·r₀, first·r₀·r₁, …"""
    factors = np.concatenate([np.ones((len(ratios), 1)), ratios], axis=1)[:, : ratios.shape[1]]
    return first[:, None] * np.cumprod(factors, axis=1)


def rest(rate: Floats, further: Integers) -> Floats:
    """(prompts,) (1 − rate)^further, with the digits of tiny rates."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(further == 0, 1.0, np.exp(further * np.log1p(-rate)))


def _power(view: Outlook, further: Integers, of_success: bool) -> Floats:
    """(prompts,) E[pᵏ], or E[(1 − p)ᵏ], for k = further."""
    if view.alpha is None or view.beta is None:
        rate = np.zeros(len(further)) if view.rate is None else view.rate
        return rate**further if of_success else rest(rate, further)
    start = view.alpha if of_success else view.beta
    steps = np.arange(int(further.max(initial=0)))
    ratios = (start[:, None] + steps) / ((view.alpha + view.beta)[:, None] + steps)
    return np.prod(np.where(steps < further[:, None], ratios, 1.0), axis=1)


def _variance(spec: RolloutBudgets, view: Outlook, counts: Floats) -> Floats:
    """(prompts × counts) the variance that `neyman`, `gvm` and `vip` minimise, at each count."""
    rate = np.zeros((len(counts), 1)) if view.rate is None else view.rate[:, None]
    norm = spec.prompts.gradient_norm
    weight = np.ones((len(counts), 1)) if norm is None else norm[:, None] ** 2
    if spec.value == "vip":
        return weight * 4 * rate * (1 - rate) * (counts - 1) / counts**2
    if spec.value == "neyman":
        return weight * rate * (1 - rate) / counts
    with np.errstate(divide="ignore"):  # at rate 0 the divisor is infinite and the weight 0
        return weight / (rate + GVM_ALPHA / rate ** (GVM_BETA - 1)) / counts
