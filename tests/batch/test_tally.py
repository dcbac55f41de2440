"""What a batch has come to, in counts and quantiles."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.clients.batch.tally import MOST_NAMES, Spread, Tally


def spread(values: list[float]) -> Spread:
    counted = Spread()
    for value in values:
        counted.add(value)
    return counted


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(0, allow_nan=False) | st.sampled_from([0.0, math.inf, 5e-324, sys.float_info.max]), min_size=1),
    st.floats(0, 1),
)
def test_a_quantile_is_within_half_a_per_cent_of_the_true_one(values: list[float], share: float) -> None:
    true = sorted(values)[max(math.ceil(share * len(values)), 1) - 1]
    assert spread(values).quantile(share) == pytest.approx(true, rel=0.005, abs=0)


def test_quantiles_of_a_hundred_thousand_numbers_take_no_more_room_than_their_bins() -> None:
    random = np.random.default_rng(1)
    values = random.lognormal(-7, 2, 100_000)
    counted = spread(values.tolist())
    for share in (0.5, 0.99):
        expected = np.quantile(values, share, method="inverted_cdf")
        assert counted.quantile(share) == pytest.approx(expected, rel=0.005)
    assert counted.quantile(1) == counted.largest == values.max()
    assert counted.smallest == values.min() and counted.count == 100_000
    assert counted.total == pytest.approx(values.sum())
    assert len(counted._bins) < 2000


@pytest.mark.parametrize("value", [0.0, 1e-300, 0.125, 3.0, math.inf])
def test_what_is_always_the_same_number_is_told_exactly(value: float) -> None:
    assert {spread([value] * 5).quantile(share) for share in (0, 0.5, 0.99, 1)} == {value}


def test_nothing_has_no_quantile() -> None:
    assert Spread().quantile(0.5) is None


@pytest.mark.parametrize("value", [-1e-9, math.nan, -math.inf])
def test_numbers_that_no_gap_or_time_can_be_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Spread().add(value)


def test_outcomes_are_counted_by_kind_and_cause_and_the_worst_failure_decides() -> None:
    tally = Tally()
    assert (tally.done, tally.exit_code) == (0, 0)
    tally.solved("rollout_budgets", "optimal", 0.0, 0.5)
    tally.solved("rollout_budgets", "feasible", 1e-3, 1.5)
    tally.solved("expert_assignment", "optimal", 0.0, 0.1)
    tally.failed("rollout_budgets", "InfeasibleError", 3)
    tally.failed(None, "SpecError", 2)
    tally.failed("rollout_budgets", "ServiceError", 5, "WORKER_OUT_OF_MEMORY")
    tally.failed("rollout_budgets", "ServiceError", 5, "WORKER_LOST")
    tally.failed("expert_assignment", "ServiceError", 5, "WORKER_LOST")

    assert (tally.plans, tally.failures, tally.done, tally.exit_code) == (3, 5, 8, 5)
    assert list(tally.kinds) == ["rollout_budgets", "expert_assignment", None]
    rollouts = tally.kinds["rollout_budgets"]
    assert (rollouts.solved, rollouts.failed) == (2, 3)
    assert rollouts.statuses == {"optimal": 1, "feasible": 1}
    assert rollouts.failures == {"InfeasibleError": 1, "WORKER_OUT_OF_MEMORY": 1, "WORKER_LOST": 1}
    assert (rollouts.gap.largest, rollouts.seconds.largest, rollouts.seconds.total) == (1e-3, 1.5, 2.0)
    assert next(iter(tally.causes().items())) == ("WORKER_LOST", 2)
    assert tally.causes().total() == 5


def test_documents_that_make_kinds_and_causes_up_take_no_more_than_their_room() -> None:
    tally = Tally()
    for number in range(10_000):
        tally.failed(f"kind {number}", "SpecError", 2)
        tally.failed("kind 1", f"Error{number}", 2)
    tally.solved("rollout_budgets", "optimal", 0.0, 0.1)
    assert tally.kinds["rollout_budgets"].solved == 1
    assert len(tally.kinds) <= MOST_NAMES + 2
    assert all(len(kind.failures) <= MOST_NAMES + 1 for kind in tally.kinds.values())
    assert tally.failures == tally.causes().total() == sum(kind.failed for kind in tally.kinds.values()) == 20_000
