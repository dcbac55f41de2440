"""The canonical program: blocks become sparse columns, goals become rows, conflicts become fields."""

from __future__ import annotations

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.answer import ProgramInfeasible
from equipoise.solvers.backends.highs import HighsBackend
from equipoise.solvers.conflicts import find_conflict
from equipoise.solvers.control import Control, Options
from equipoise.solvers.program import Builder, Program
from equipoise.solvers.purse import purse
from equipoise.specs.exact import exact


def solve(program: Program) -> float:
    return HighsBackend().solve(program, Options("exact"), Control()).objective


def test_entries_become_sorted_sparse_columns() -> None:
    builder = Builder("minimise")
    columns = builder.columns("x", (2, 3))
    rows = builder.rows("r", 2, lower=0.0)
    random = np.random.default_rng(0)
    dense = random.integers(0, 3, (2, 2, 3))
    for row in (1, 0):
        builder.entries(rows[row], columns, dense[row])
    program = builder.build()
    found = np.zeros((2, 6))
    found[program.rows, program.entry_columns()] = program.coefficients
    assert np.array_equal(found, dense.reshape(2, 6))
    assert program.nonzeros == np.count_nonzero(dense)
    values = random.random(6)
    assert program.activity(values) == pytest.approx(found @ values)


def test_names_come_from_the_blocks() -> None:
    builder = Builder("minimise")
    builder.columns("route", (2, 2))
    builder.columns("rest", 1)
    builder.rows("capacity", 2)
    program = builder.build()
    assert list(program.column_names()) == ["route[0,0]", "route[0,1]", "route[1,0]", "route[1,1]", "rest[0]"]
    assert list(program.row_names()) == ["capacity[0]", "capacity[1]"]


def test_a_settled_goal_is_kept() -> None:
    builder = Builder("maximise")
    take = builder.columns("take", 3, cost=[1.0, 1.0, 5.0], upper=1.0, integer=True)
    builder.entries(builder.rows("room", 1, upper=2.0), take, [1.0, 1.0, 2.0])
    builder.goal("number", "maximise", take)
    program = builder.build()
    (goal,) = program.goals
    most = solve(program.aimed(goal.sense, goal.cost))
    assert most == 2
    assert solve(program.settled(goal, most).aimed(program.sense, program.cost)) == 2.0
    assert solve(program.aimed(program.sense, program.cost)) == 5.0


def test_a_program_beyond_memory_is_refused_before_it_is_built() -> None:
    with pytest.raises(eq.UnsupportedError, match="1,000,000,000 columns"):
        Builder("minimise").columns("x", 10**9)


def conflicting() -> Builder:
    """Three demands of which only the first two clash, through a column bound."""
    builder = Builder("minimise")
    x, y = builder.columns("amount", 2, upper=3.0, integer=True, upper_field="most")
    builder.entries(builder.rows("demand", 1, lower=8.0, field="demand"), [x, y])
    builder.entries(builder.rows("other", 1, upper=9.0, field="other"), [x, y])
    return builder


def test_a_conflict_is_minimal_and_says_how_far_each_side_must_give_way() -> None:
    program = conflicting().build()
    with pytest.raises(ProgramInfeasible):
        solve(program)
    conflict = find_conflict(program)
    assert set(conflict.fields) == {"demand", "most"}
    assert conflict.shifts["demand"].lower == 2
    assert conflict.shifts["most"].upper == 1


@pytest.mark.parametrize(
    ("cost", "lot", "budget", "whole", "room"),
    [
        ([0.1, 0.3], 1, 0.3, [1, 3], 3),
        ([1.5, 2.5], 1, 10.0, [3, 5], 20),
        ([2.0, 4.0], 1, 7.0, [1, 2], 3),
        ([0.1, 0.2], 5, 1.7, [1, 2], 3),
        ([], 1, 5.0, [], 5),
        ([1e-3, 1e3], 1, 1.0, [1, 10**6], 1000),
    ],
)
def test_a_decimal_budget_is_counted_in_whole_units(
    cost: list[float], lot: int, budget: float, whole: list[int], room: int
) -> None:
    counted = purse(np.array(cost), lot, budget)
    assert counted.cost.tolist() == [min(unit, counted.cost.max(initial=0)) for unit in whole]
    assert counted.room == room
    assert not counted.coarse


def test_a_budget_in_no_common_unit_is_never_overspent() -> None:
    counted = purse(np.array([1 / 3, 1e-9]), 1, 1e9)
    assert counted.coarse
    assert counted.spent(np.array([3, 0])) * counted.unit >= 3 * exact(1 / 3)
