"""Collection budgets that cannot be met, or that make no sense: told in the words of the spec, with the remedy."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

import equipoise as eq
from equipoise.solvers.formulations.collection_budgets import CollectionProgram

from .collection_tasks import curve, observed, two_groups, without


def change_of(fields: dict[str, Any], place: str, value: float) -> dict[str, Any]:
    """The fields with one number replaced, named as `InfeasibleError.change` does."""
    groups = {name: list(column) if isinstance(column, list) else column for name, column in fields["groups"].items()}
    if place == "fairness.max_gap":
        return {**fields, "fairness": {"max_gap": value}}
    if (entry := re.fullmatch(r"groups\.(\w+)\[(\d+)\]", place)) is not None:
        groups[entry[1]][int(entry[2])] = int(value)
        return {**fields, "groups": groups}
    return {**fields, place: value}


CONFLICTS: dict[str, tuple[dict[str, Any], set[str], set[str], list[str]]] = {
    "least costs more than the budget": (
        two_groups(groups={"least": [10, 20]}),
        {"budget", "groups.least"},
        {"budget"},
        ["groups.least takes 20 × 2 for 'b' + 10 × 1 for 'a', that is 50, but budget is 40; set budget to 50"],
    ),
    "least is more than is available": (
        two_groups(groups={"least": [0, 31]}, budget=100.0),
        {"groups.available", "groups.least"},
        {"groups.least[1]", "groups.available[1]"},
        ["31 samples of 'b'", "groups.available has 30", "set groups.least[1] to 30 or groups.available[1] to 31"],
    ),
    "least and most leave no whole lot": (
        two_groups(groups={"least": [5, 0], "most": [7, 9]}, lot=4),
        {"groups.most", "groups.least"},
        {"groups.least[0]", "groups.most[0]"},
        ["5 samples of 'a', in lots of 4: 8", "groups.most has 7, in whole lots 4", "groups.most[0] to 8"],
    ),
    "the gap is out of reach of the budget": (
        two_groups(
            groups={"curve": curve([0.05, 0.3], [1.0, 1.0], [2.0, 0.4]), "available": [50, 200]},
            fairness={"max_gap": 0.4},
        ),
        {"budget", "fairness.max_gap"},
        {"fairness.max_gap", "budget"},
        ["losses of 'b' and 'a' cannot come within fairness.max_gap 0.4", "with budget 40"],
    ),
    "the gap is out of reach of what is available": (
        two_groups(
            groups={"curve": curve([0.05, 0.3], [1.0, 1.0], [2.0, 0.4]), "available": [5, 2]},
            fairness={"max_gap": 0.5},
        ),
        {"groups.available", "fairness.max_gap"},
        {"fairness.max_gap"},
        ["losses of 'b' and 'a'", "with groups.available ('a' 5, 'b' 2)"],
    ),
    "the gap is out of reach for good": (
        two_groups(groups={"curve": curve([0.1, 0.9], [0.0, 0.0], [1.0, 1.0])}, fairness={"max_gap": 0.5}),
        {"fairness.max_gap"},
        {"fairness.max_gap"},
        ["'b' gets down to 0.9, while 'a' is at 0.1; set fairness.max_gap to 0.8"],
    ),
    "a share forces more than the budget": (
        two_groups(groups={"least": [20, 0], "least_share": [0.0, 0.5]}),
        {"budget", "groups.least", "groups.least_share"},
        {"budget"},
        ["budget 40", "groups.least ('a' 20, 'b' 0)", "groups.least_share ('a' 0, 'b' 0.5)", "set budget to 60"],
    ),
    "a share forces more than is available": (
        two_groups(groups={"least": [20, 0], "least_share": [0.0, 0.5], "available": [50, 5]}, budget=500.0),
        {"groups.available", "groups.least", "groups.least_share"},
        set(),
        ["groups.available ('a' 50, 'b' 5)"],
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_conflicts_are_told_in_the_words_of_the_spec(name: str) -> None:
    fields, conflicting, mending, words = CONFLICTS[name]
    with pytest.raises(eq.InfeasibleError) as caught:
        eq.solve(eq.CollectionBudgets(**fields))
    assert set(caught.value.fields) == conflicting
    assert set(caught.value.change) == mending
    for word in words:
        assert word in str(caught.value)
    for place, value in caught.value.change.items():
        mended = eq.CollectionBudgets(**change_of(fields, place, value))
        assert eq.check(mended, eq.solve(mended)).ok


@pytest.mark.parametrize("place", ["budget", "fairness.max_gap"])
def test_the_change_that_is_proposed_is_the_smallest(place: str) -> None:
    fields = CONFLICTS["the gap is out of reach of the budget"][0]
    with pytest.raises(eq.InfeasibleError) as caught:
        eq.solve(eq.CollectionBudgets(**fields))
    less = caught.value.change[place] * (1 - 1e-4) - (0.5 if place == "budget" else 0)
    with pytest.raises(eq.InfeasibleError):
        eq.solve(eq.CollectionBudgets(**change_of(fields, place, less)))


BAD: list[tuple[dict[str, Any], str]] = [
    (two_groups(groups={"curve": None}), "give exactly one of groups.curve and observations"),
    ({**observed(), **two_groups()}, "give exactly one of groups.curve and observations"),
    (two_groups(groups={"weight": [0, 0]}), "groups.weight: must be above 0 for at least one group"),
    (
        two_groups(groups={"least": [5, 1], "most": [4, 1]}),
        "groups.least[0]: must be at most groups.most[0] (4), got 5",
    ),
    (two_groups(groups={"cost": [1, 0]}), "groups.cost[1]: must be above 0, got 0"),
    (two_groups(groups={"name": ["a", "a"]}), "groups.name[1]: is 'a', as entry 0 is; names must differ"),
    (two_groups(groups={"collected": [1.5, 1]}), "groups.collected[0]: must be a whole number, got 1.5"),
    (two_groups(groups={"least_share": [0.6, 0.5]}), "groups.least_share: adds up to 1.1, and shares"),
    (two_groups(groups={"most_share": [0.4, 0.5]}), "groups.most_share: adds up to 0.9; below 1 nothing"),
    (
        two_groups(groups={"least_share": [0.5, 0.3], "most_share": [0.4, 1]}),
        "groups.least_share[0]: must be at most groups.most_share[0] (0.4), got 0.5",
    ),
    (two_groups(groups={"collected": [0, 1]}), "groups.curve: needs loss_at_zero: for group 'a'"),
    (
        two_groups(groups={"collected": [0, 1], "curve": curve([0.1] * 2, [1.0] * 2, [1.0] * 2, loss_at_zero=[1, 1])}),
        "groups.curve.loss_at_zero[0]: must be at least the loss at one sample (1.1) for group 'a'",
    ),
    (two_groups(groups={"curve": curve([0.1], [1.0], [0.5])}), "groups.name has 2 entries, groups.curve has 1"),
    (
        two_groups(groups={"curve": curve([0.1, 0.1], [1.0, 1.0], [0.5, 0.0])}),
        "groups.curve.exponent[1]: must be above 0, got 0",
    ),
    (two_groups(model="convex_monotone"), "model: 'convex_monotone' is fitted to observations"),
    (two_groups(objective="mean"), "objective: must be 'weighted_mean', 'worst_group' or 'alpha_fair', got 'mean'"),
    (two_groups(objectiv="worst_group"), "objectiv: is not a field of this spec; did you mean 'objective'?"),
    (two_groups(fairness={"gap": 1}), "fairness.gap: is not a field of fairness; did you mean 'max_gap'?"),
    (two_groups(budget=-1.0), "budget: must be at least 0"),
    (two_groups(budget=math.nan), "budget: must be"),
    (two_groups(lot=0), "lot: must be at least 1, got 0"),
    (two_groups(alpha=math.inf), "alpha: must be a finite number"),
    (two_groups(alpha=5000.0, objective="alpha_fair"), "alpha: is so large that losses about 1.3, to the power of"),
    (
        {**observed(), "groups": {"name": ["good", "flat", "bad"], "collected": [1, 1, 1]}},
        "observations.group[8]: must be the name of a group",
    ),
    (
        {**observed(), "groups": {"name": ["good", "flat", "slow"], "collected": [1, 0, 1]}},
        "groups.collected[1]: must be at least 1 where curves are fitted",
    ),
    (
        {**observed(), "groups": {"name": ["good", "flat", "slow", "new"], "collected": [1] * 4}},
        "observations: hold 0 of group 'new', and a power_law needs 3",
    ),
    (
        {
            **without(two_groups(), "curve"),
            "observations": {"group": ["a"] * 3 + ["b"] * 2, "samples": [1, 2, 3, 1, 2], "loss": [1] * 5},
            "model": "power_law",
        },
        "observations: hold 2 of group 'b', and a power_law needs 3; or set model to shared_power_law, for which 1",
    ),
    (
        {**observed(), "observations": {"group": ["good"], "samples": [0], "loss": [1.0]}},
        "observations.samples[0]: must be at least 1, got 0",
    ),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_bad_specs_are_refused_with_the_place_and_the_remedy(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(eq.SpecError) as caught:
        eq.CollectionBudgets(**fields)
    assert message in str(caught.value)


def test_too_fine_a_lot_is_refused_with_the_one_that_would_do() -> None:
    fields = two_groups(groups={"least_share": [0.2, 0.2]}, budget=1e7)
    with pytest.raises(eq.UnsupportedError, match=r"set lot to \d+ or more") as caught:
        eq.solve(eq.CollectionBudgets(**without(fields, "available")))
    lot = int(re.findall(r"set lot to (\d+)", str(caught.value))[0])
    CollectionProgram(eq.CollectionBudgets(**without(fields, "available"), lot=lot)).formulate()
