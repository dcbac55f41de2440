"""Random tasks of any size for the benchmarks, by kind and seed, shaped like the loads that people report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import equipoise as eq


def expert_assignment(tokens: int, experts: int, experts_per_token: int, skew: float, seed: int) -> Any:
    """Scores sigmoid(N(0,1) + skew·N(0,1) per expert): `skew` makes some experts everybody's favourites."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(tokens, experts)) + skew * random.normal(size=experts)
    return eq.ExpertAssignment(scores=1 / (1 + np.exp(-logits)), experts_per_token=experts_per_token)


def decode_allocation(workers: int, slots: int, free: int, waiting: int, seed: int) -> Any:
    """A step in mid-flight: all but `free` slots taken, long-tailed prompts, geometric-like remaining lengths."""
    random = np.random.default_rng(seed)
    active = workers * slots - free
    return eq.DecodeAllocation(
        workers={"slots": np.full(workers, slots)},
        active={
            "worker": random.permutation(np.repeat(np.arange(workers), slots))[:active],
            "tokens": random.lognormal(6.6, 1.0, active).astype(int) + 1,
            "remaining": random.geometric(1 / 200, active),
        },
        waiting={
            "tokens": random.lognormal(6.6, 1.0, waiting).astype(int) + 1,
            "remaining": random.geometric(1 / 200, waiting),
            "waited": np.arange(waiting)[::-1] // 8,
        },
        horizon=[0, 4, 16, 64, 256, 1024],
        max_bypass=64,
    )


def rollout_budgets(prompts: int, each: int, seed: int) -> Any:
    """Histories of eight rollouts at rates from Beta(½, ½), a budget of `each` per prompt."""
    random = np.random.default_rng(seed)
    successes = random.binomial(8, random.beta(0.5, 0.5, prompts))
    return eq.RolloutBudgets(
        prompts={"successes": successes, "trials": np.full(prompts, 8)}, total=prompts * each, most=128
    )


def collection_budgets(groups: int, seed: int) -> Any:
    """Power-law curves with decimal costs; a budget of about a hundred samples a group."""
    random = np.random.default_rng(seed)
    return eq.CollectionBudgets(
        groups={
            "name": [f"group {number}" for number in range(groups)],
            "collected": random.integers(20, 200, groups),
            "cost": random.choice([1.0, 1.5, 2.0, 2.5], groups),
            "curve": {
                "asymptote": random.uniform(0.0, 0.3, groups),
                "scale": random.uniform(0.2, 3.0, groups),
                "exponent": random.uniform(0.2, 1.0, groups),
            },
        },
        budget=100.0 * groups,
    )


SIZES: dict[str, list[tuple[str, Callable[[int], Any]]]] = {
    "expert_assignment": [
        ("1024 × 16, k 2, skew 1", lambda seed: expert_assignment(1024, 16, 2, 1.0, seed)),
        ("4096 × 64, k 8, skew 1", lambda seed: expert_assignment(4096, 64, 8, 1.0, seed)),
        ("8192 × 128, k 8, skew 3", lambda seed: expert_assignment(8192, 128, 8, 3.0, seed)),
    ],
    "decode_allocation": [
        ("8 workers × 72, 6 free, 32 waiting", lambda seed: decode_allocation(8, 72, 6, 32, seed)),
        ("16 workers × 72, 12 free, 64 waiting", lambda seed: decode_allocation(16, 72, 12, 64, seed)),
        ("64 workers × 72, 24 free, 256 waiting", lambda seed: decode_allocation(64, 72, 24, 256, seed)),
    ],
    "rollout_budgets": [
        ("256 prompts × 8", lambda seed: rollout_budgets(256, 8, seed)),
        ("1024 prompts × 8", lambda seed: rollout_budgets(1024, 8, seed)),
        ("2048 prompts × 16", lambda seed: rollout_budgets(2048, 16, seed)),
    ],
    "collection_budgets": [
        ("16 groups", lambda seed: collection_budgets(16, seed)),
        ("128 groups", lambda seed: collection_budgets(128, seed)),
        ("1000 groups", lambda seed: collection_budgets(1000, seed)),
    ],
}
