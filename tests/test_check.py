"""Claims about tiny numbers: what `check` lets pass is a matter of the size of the data, not of the number 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import equipoise as eq

from .collection_tasks import OBJECTIVES, curve, observed, two_groups

TINY = 1e-15
MIXED = np.random.default_rng(5).normal(size=(12, 4)) * TINY
WORTH = np.cumsum(np.sort(np.random.default_rng(6).random((3, 9)), axis=1)[:, ::-1], axis=1) * TINY


def collection(objective: str) -> eq.CollectionBudgets:
    small = {"curve": curve([0.1 * TINY, 0.3 * TINY], [TINY, TINY], [0.5, 0.4])}
    return eq.CollectionBudgets(**two_groups(groups=small, objective=objective))


def fitted(model: str) -> eq.CollectionBudgets:
    fields = observed(model)
    seen = fields["observations"]
    for column in ("loss", "stderr"):
        seen[column] = [TINY * value for value in seen[column]]
    return eq.CollectionBudgets(**fields)


SPECS: dict[str, eq.Spec[Any]] = {
    "scores": eq.ExpertAssignment(scores=MIXED, experts_per_token=2),
    "fast workers": eq.DecodeAllocation(
        workers={"slots": [2, 2], "speed": [1e12, 0.5e12]}, waiting={"tokens": [7, 3, 5]}, horizon=[0, 4]
    ),
    "a table": eq.RolloutBudgets(
        prompts={"success_rate": [0.1, 0.2, 0.3]}, total=12, least=0, most=8, value="table", table=WORTH
    ),
    "a table of losses": eq.RolloutBudgets(
        prompts={"success_rate": [0.1, 0.2, 0.3]}, total=12, least=0, most=8, value="table", table=WORTH - 4 * TINY
    ),
    "small gradients": eq.RolloutBudgets(
        prompts={"success_rate": [0.1, 0.2, 0.3], "gradient_norm": [1e-8, 2e-8, 3e-8]}, total=12, value="neyman"
    ),
    "rare successes": eq.RolloutBudgets(
        prompts={"success_rate": [1e-6, 2e-6, 3e-6]}, total=12, most=8, value="knapsack_rl"
    ),
    **{objective: collection(objective) for objective in OBJECTIVES},
    **{model: fitted(model) for model in ("shared_power_law", "power_law", "convex_monotone")},
}


def forged(fields: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of a plan with one number in it, wherever it is, one per cent off."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{path}", {**fields, name: inner}) for path, inner in forged(value))
        elif isinstance(value, float):
            yield name, {**fields, name: value * 1.01}
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            for place in np.ndindex(value.shape):
                other, largest = value.copy(), float(np.abs(value).max())
                other[place] += 0.01 * (value[place] if abs(value[place]) > 0.01 * largest else largest)
                if not np.array_equal(other, value):
                    yield f"{name}{list(place)}", {**fields, name: other}


FREE = ("prices", "prior", "fit.level", "fit.slope", "fit.bends", "fit.stderr")
"""What a plan may choose, or what is a guess that nothing else follows from to the last per cent."""


@pytest.mark.parametrize("name", list(SPECS))
def test_a_tiny_number_that_is_one_per_cent_off_fails_the_check(name: str) -> None:
    spec = SPECS[name]
    plan = eq.solve(spec, "exact")
    assert eq.check(spec, plan).ok, eq.check(spec, plan).problems
    for place, fields in forged(plan.fields()):
        if not place.startswith(FREE) and type(plan)(**fields) != plan:
            result = eq.check(spec, type(plan)(**fields).with_certificate(plan.certificate))
            assert not result.ok, place


@pytest.mark.parametrize("name", list(SPECS))
def test_a_claim_about_a_tiny_objective_or_bound_fails_the_check(name: str) -> None:
    spec = SPECS[name]
    plan = eq.solve(spec, "exact")
    claim = plan.certificate
    assert 0 < abs(claim.objective) < 1e-10
    better = 1 if claim.sense == "maximise" else -1
    step = 0.01 * abs(claim.objective)
    for change in (
        {"objective": claim.objective + better * step, "bound": claim.bound + better * step},
        {"objective": claim.objective - better * step},
        {"bound": claim.bound - better * step},
    ):
        both = {"objective": claim.objective, "bound": claim.bound} | change
        update = {**both, "gap": spec.gap(plan, both["objective"], both["bound"])}
        assert not eq.check(spec, plan.with_certificate(claim.model_copy(update=update))).ok, change
