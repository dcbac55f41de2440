"""Collection budgets to test on: small ones of every form, and random ones."""

from __future__ import annotations

from typing import Any

import numpy as np

OBJECTIVES = ("weighted_mean", "worst_group", "alpha_fair")


def curve(asymptote: list[float], scale: list[float], exponent: list[float], **more: Any) -> dict[str, Any]:
    """The columns of a table of curves."""
    return {"asymptote": asymptote, "scale": scale, "exponent": exponent, **more}


def two_groups(**fields: Any) -> dict[str, Any]:
    """A small task: `a` is cheap and improves, `b` is dear and hard. Fields are added or replaced."""
    groups: dict[str, Any] = {
        "name": ["a", "b"],
        "collected": [10, 10],
        "cost": [1.0, 2.0],
        "available": [50, 30],
        "curve": curve([0.1, 0.3], [1.0, 1.0], [0.5, 0.4]),
    }
    return {"groups": {**groups, **fields.pop("groups", {})}, "budget": 40.0, **fields}


def observed(model: str = "power_law", **fields: Any) -> dict[str, Any]:
    """A small task whose curves are fitted: `flat` does not fall."""
    samples = [8, 12, 16, 32]
    losses = [0.1 + 2.1 * n**-0.6 + 0.004 * (-1) ** place for place, n in enumerate(samples)]
    losses += [0.4, 0.38, 0.41, 0.42, *(0.9 * n**-0.2 for n in samples)]
    return {
        "groups": {"name": ["good", "flat", "slow"], "collected": [32, 32, 32], "available": [90, 90, 90]},
        "observations": {
            "group": ["good"] * 4 + ["flat"] * 4 + ["slow"] * 4,
            "samples": samples * 3,
            "loss": losses,
            "stderr": [0.01, 0.02, 0.01, 0.01] * 3,
        },
        "model": model,
        "budget": 30.0,
        **fields,
    }


def random_fields(seed: int) -> dict[str, Any]:
    """A small task with any objective, decimal costs, lots, and some bounds, shares and gaps."""
    random = np.random.default_rng(seed)
    size = int(random.integers(2, 5))
    collected = random.integers(0, 12, size) * (random.random(size) < 0.8)
    asymptote = random.choice([0.0, 0.1, 0.2, 0.5], size)
    scale = np.where(random.random(size) < 0.15, 0.0, random.uniform(0.2, 2, size).round(2))
    groups: dict[str, Any] = {
        "name": [f"g{row}" for row in range(size)],
        "collected": collected.tolist(),
        "cost": random.choice([0.1, 0.2, 0.3, 0.25, 0.5, 1.0, 1.5], size).tolist(),
        "available": random.integers(0, 9, size).tolist(),
        "curve": curve(
            asymptote.tolist(),
            scale.tolist(),
            random.choice([0.1, 0.3, 0.5, 1.0, 2.0], size).tolist(),
            # At 0 and 0.01 above the loss at one sample, the first sample is worth less than the second.
            loss_at_zero=(asymptote + scale + random.choice([0, 0.01, 0.5], size)).tolist(),
        ),
    }
    if random.random() < 0.3:
        groups["weight"] = [1.0, *random.choice([0.0, 1.0, 2.5], size - 1).tolist()]
    if random.random() < 0.3:
        groups["least"] = [int(random.integers(0, available // 2 + 1)) for available in groups["available"]]
    if random.random() < 0.3:
        least = groups.get("least", [0] * size)
        groups["most"] = [max(int(random.integers(0, 9)), low) for low in least]
    if random.random() < 0.2:
        groups["least_share"] = random.choice([0, 0.1, 0.2, 0.25], size).tolist()
    if random.random() < 0.2:
        groups["most_share"] = random.choice([0.5, 0.6, 1], size).tolist()
    fields: dict[str, Any] = {
        "groups": groups,
        "budget": float(random.choice([0, 0.3, 0.9, 1.2, 2.0, 3.3, 5.0])),
        "lot": int(random.choice([1, 1, 2, 3])),
        "objective": OBJECTIVES[seed % 3],
        "alpha": float(random.choice([0, 1, 2.5])),
        "tolerance": float(random.choice([0, 1e-3, 0.05])),
    }
    if random.random() < 0.3:
        fields["fairness"] = {"max_gap": float(random.choice([0.1, 0.3, 0.6]))}
    return fields


def changed(plan: Any, **fields: Any) -> Any:
    """The plan with some fields replaced, under its old certificate."""
    return type(plan)(**{**plan.fields(), **fields}).with_certificate(plan.certificate)


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """The fields without some columns of the groups."""
    return {**fields, "groups": {name: value for name, value in fields["groups"].items() if name not in names}}
