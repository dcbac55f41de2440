"""Looking for a conflict, and for its words, ends: whatever the numbers, and whatever the solver does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers import conflicts
from equipoise.solvers import solve as solve_module
from equipoise.solvers.answer import Answer, ProgramInfeasible
from equipoise.solvers.backends.highs import HighsBackend
from equipoise.solvers.control import Control, Options
from equipoise.solvers.formulation import Evidence, formulation
from equipoise.solvers.program import Builder, Program

from .collection_tasks import curve, two_groups

APART = eq.CollectionBudgets(
    **two_groups(
        groups={"curve": curve([0.05, 0.3], [1.0, 1.0], [2.0, 0.4]), "available": [50, 200]},
        fairness={"max_gap": 0.4},
    )
)


def clash(*coefficients: float) -> Program:
    """Weights of whole amounts that sum to more than they may, and to less than they must."""
    builder = Builder("minimise")
    amounts = builder.columns("amount", len(coefficients), upper=3.0, integer=True, upper_field="most")
    weights = np.array(coefficients)
    builder.entries(builder.rows("demand", 1, lower=4 * weights.sum(), field="demand"), amounts, weights)
    builder.entries(builder.rows("other", 1, upper=9e15, field="other"), amounts)
    return builder.build()


@pytest.mark.parametrize("coefficients", [(1e15, 1e-8), (1e-8, 1e-7), (1e12, 3.0, 1e-6), (7e14, 1e15 / 3)])
def test_a_conflict_of_extreme_numbers_is_found(coefficients: tuple[float, ...]) -> None:
    conflict = conflicts.find_conflict(clash(*coefficients))
    assert {"demand", "most"} <= set(conflict.fields)  # what no probe decides may be there besides
    assert "other" not in conflict.shifts


@pytest.mark.parametrize("limit", [None, 3.0])
def test_every_probe_has_a_limit_and_all_together_have_one(
    limit: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    solve = HighsBackend.solve

    def watched(self: HighsBackend, program: Program, options: Options, control: Control) -> Answer:
        limits.append(control.remaining)
        return solve(self, program, options, control)

    monkeypatch.setattr(HighsBackend, "solve", watched)
    conflicts.find_conflict(clash(1.0, 2.0), Control(limit))
    assert len(limits) == 5  # three fields to leave out, two of them to shift
    assert max(limits) <= (limit or conflicts.PROBE)
    if limit is None:
        monkeypatch.setattr(conflicts, "PROBES", 2.0)
        conflicts.find_conflict(clash(1.0, 2.0))
        assert max(limits[5:]) <= 2.0


@pytest.mark.parametrize("failure", [eq.SolveTimeout("too long"), eq.BackendError("lost")])
def test_a_probe_without_answer_leaves_a_true_conflict(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Answer:
        raise failure

    monkeypatch.setattr(HighsBackend, "solve", fail)
    conflict = conflicts.find_conflict(clash(1.0, 2.0))
    assert conflict.fields == ("most", "demand", "other")  # all that there are
    assert conflict.shifts == {}


def test_without_time_no_probe_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HighsBackend, "solve", lambda *_: pytest.fail("a probe began"))
    assert conflicts.find_conflict(clash(1.0, 2.0), Control(0.0)).shifts == {}


def test_the_levels_of_a_gap_are_not_gone_through_beyond_the_deadline() -> None:
    with pytest.raises(eq.SolveTimeout, match="time limit"):
        formulation(APART, Control(0.0)).formulate()
    with pytest.raises(eq.SolveTimeout, match="interrupted"):
        formulation(APART, Control(watch=lambda _: False)).formulate()
    with pytest.raises(eq.SolveTimeout):
        eq.solve(APART, time_limit=1e-9)
    with pytest.raises(eq.InfeasibleError, match=r"set fairness\.max_gap to"):
        eq.solve(APART)


def test_a_gap_that_can_be_met_gets_a_plan_from_some_of_its_levels_where_there_is_no_time_for_all() -> None:
    curves = {"collected": [100, 50], "curve": curve([0.1, 0.1], [1.0, 3.0], [0.3, 0.25]), "available": [900, 900]}
    spec = eq.CollectionBudgets(**two_groups(groups=curves, budget=1500.0, fairness={"max_gap": 0.4}))
    best = eq.solve(spec, "exact").certificate
    late = eq.solve(spec, time_limit=1e-9)
    assert any("no time to go through all levels" in note for note in late.certificate.notes)
    assert late.certificate.proof == "dual"
    assert late.certificate.stopped == "time limit"
    assert eq.check(spec, late).ok
    assert late.certificate.bound <= best.objective <= late.certificate.objective


def test_what_there_is_no_time_to_explain_is_named_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    program = formulation(APART).formulate()
    monkeypatch.setattr(solve_module, "SHORTEST", 0.0)
    error = solve_module._infeasible(formulation(APART), program, Control(0.0), ProgramInfeasible("nothing fits"))
    assert "budget" in str(error)
    assert "fairness.max_gap" in str(error)
    assert str(error).endswith("cannot be met together")
    assert not error.change
    error = solve_module._infeasible(formulation(APART), None, Control(0.0), ProgramInfeasible("nothing fits"))
    assert "nothing fits (which fields clash was not found: no plan within" in str(error)


def test_a_plan_in_hand_is_the_answer_where_no_time_is_left_to_search(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = eq.CollectionBudgets(**two_groups())
    plan = eq.solve(spec, "fast")
    evidence = Evidence(plan.certificate.objective, plan.certificate.bound, "dual")
    known = solve_module._Outcome(plan, evidence, "equipoise", "solved", 0.0)
    monkeypatch.setattr(type(formulation(spec)), "formulate", lambda _: pytest.fail("a program was made"))
    left = solve_module.Solver(Options("exact"))._searched(spec, known, Control(0.0))
    assert left.plan is plan
    assert left.stopped == "time limit"
