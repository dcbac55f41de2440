"""How a solve chooses between a kind's own algorithm and the compiled program, and what it tells of that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers import solve as solve_module
from equipoise.solvers.algorithm import Algorithm, Found
from equipoise.solvers.algorithms import load
from equipoise.solvers.answer import ProgramInfeasible
from equipoise.solvers.control import Control, Options
from equipoise.solvers.formulation import Evidence, formulation
from equipoise.solvers.solve import Solver
from equipoise.specs.rollout_budgets import RolloutPlan

VALUES = np.array([[0.0, 3.0, 5.0, 5.0], [0.0, 1.0, 1.0, 9.0]])
SPEC = eq.RolloutBudgets(prompts={"tokens": [1.0, 1.0]}, table=VALUES, value="table", total=3, least=0, most=3)
BEST, WORSE = [0, 3], [3, 0]  # worth 9 and 5


class Guess(Algorithm[eq.RolloutBudgets, RolloutPlan]):
    """Gives the plan that it is told to give, and proves a bound of 12 or what it is told."""

    name = "guess"
    rollouts = WORSE
    bound = 12.0
    seconds = 0.0
    refusal: str | None = None

    def refuses(self, spec: eq.RolloutBudgets) -> str | None:
        return self.refusal

    def solve(
        self, spec: eq.RolloutBudgets, gap: float, seed: int, threads: int, control: Control
    ) -> Found[RolloutPlan]:
        rollouts = np.array(self.rollouts)
        plan = formulation(spec).report(rollouts) if rollouts.size else None  # pyright: ignore[reportAttributeAccessIssue]
        if plan is None:
            raise ProgramInfeasible("nothing fits")
        value = float(VALUES[[0, 1], rollouts].sum())
        return Found(plan, Evidence(value, self.bound, "search"), "guess")

    def search_seconds(self, spec: eq.RolloutBudgets) -> float:
        return self.seconds


def solved(spec: eq.Spec[Any] = SPEC, guess: dict[str, Any] | None = None, **options: Any) -> Any:
    """The plan of a solver whose algorithm is a guess."""
    solver = Solver(Options(**options))
    algorithm = Guess()
    for name, value in (guess or {}).items():
        setattr(algorithm, name, value)
    solver._algorithms[spec.kind] = algorithm
    return solver.solve(spec)


def test_fast_gives_the_algorithms_plan_with_its_own_gap() -> None:
    plan = solved(method="fast")
    assert plan.rollouts.tolist() == WORSE
    assert plan.certificate.status == "feasible"
    assert plan.certificate.method == "fast: equipoise guess"
    assert (plan.certificate.objective, plan.certificate.bound) == (5.0, 12.0)
    assert plan.certificate.gap_asked == 1e-3


@pytest.mark.parametrize("method", ["auto", "exact"])
def test_what_an_algorithm_leaves_open_is_searched(method: Any) -> None:
    plan = solved(method=method)
    assert plan.rollouts.tolist() == BEST
    assert plan.certificate.status == "optimal"
    assert "HiGHS" in plan.certificate.method


def test_a_gap_that_is_small_enough_is_not_searched() -> None:
    plan = solved(guess={"rollouts": BEST, "bound": 9.4}, gap=0.1)
    assert plan.certificate.method == "auto: equipoise guess"
    assert plan.certificate.status == "feasible"


def test_auto_leaves_out_a_search_that_will_not_end_in_time_and_says_so() -> None:
    plan = solved(guess={"seconds": 100.0}, time_limit=5.0)
    assert plan.rollouts.tolist() == WORSE
    assert any("left out" in note for note in plan.certificate.notes)


def test_exact_searches_however_long_it_may_take() -> None:
    assert solved(guess={"seconds": 100.0}, method="exact", time_limit=30.0).rollouts.tolist() == BEST


def test_the_better_plan_is_kept_under_the_tighter_bound() -> None:
    """A search that ends at a loose gap gives its bound; the plan stays the algorithm's."""
    plan = solved(guess={"rollouts": BEST, "bound": 50.0}, gap=0.5)
    assert plan.rollouts.tolist() == BEST
    assert plan.certificate.bound < 50.0


def test_a_search_without_time_gives_back_the_plan_that_is_there() -> None:
    plan = solved(guess={"rollouts": WORSE}, method="exact", time_limit=0.0)
    assert plan.rollouts.tolist() == WORSE
    assert plan.certificate.stopped == "time limit"
    assert plan.certificate.status == "feasible"


@pytest.mark.parametrize("error", [eq.BackendError("solve error"), ProgramInfeasible("called infeasible")])
def test_a_search_that_fails_gives_back_the_plan_that_is_there_and_says_so(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Solver, "_settle", fail)
    plan = solved(method="exact")
    assert plan.rollouts.tolist() == WORSE
    assert plan.certificate.status == "feasible"
    assert plan.certificate.notes == (f"the search gave no answer: {error}",)


def test_a_search_that_fails_without_a_plan_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise eq.BackendError("solve error")

    monkeypatch.setattr(Solver, "_settle", fail)
    with pytest.raises(eq.BackendError, match="solve error"):
        solved(backend="highs")


def test_infeasible_stays_infeasible_where_no_backend_can_tell_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise eq.BackendError("solve error")

    monkeypatch.setattr(solve_module, "find_conflict", fail)
    monkeypatch.setattr(type(formulation(SPEC)), "conflict", fail)
    with pytest.raises(eq.InfeasibleError, match=r"nothing fits .*which fields clash was not found: solve error"):
        solved(SPEC.replace(total=7), {"rollouts": []})


def test_a_named_backend_solves_the_program() -> None:
    assert solved(backend="highs").certificate.method.startswith("auto: HiGHS")


def test_a_refusal_is_told_by_fast_and_passed_over_by_auto() -> None:
    with pytest.raises(eq.UnsupportedError, match="'fast' cannot answer this: too odd; use 'auto' or 'exact'"):
        solved(guess={"refusal": "too odd"}, method="fast")
    assert solved(guess={"refusal": "too odd"}).rollouts.tolist() == BEST


def test_an_algorithm_that_breaks_a_demand_is_caught() -> None:
    with pytest.raises(eq.BackendError, match=r"equipoise guess gave an answer that breaks the spec: total"):
        solved(guess={"rollouts": [3, 3]})


def test_infeasible_is_told_in_the_words_of_the_spec() -> None:
    spec = SPEC.replace(total=7)
    with pytest.raises(eq.InfeasibleError, match="total is 7"):
        solved(spec, {"rollouts": []})


def test_an_algorithm_is_made_once_per_solver() -> None:
    solver = Solver(Options())
    for _ in range(2):
        solver.solve(SPEC)
    assert len(solver._algorithms) <= 1


def test_progress_is_shown_while_machine_code_is_compiled_and_can_be_stopped(tmp_path: Path) -> None:
    """A slow import stands for the compiling."""
    code = f"""
import sys, time
import equipoise as eq
from equipoise.solvers import algorithms
name = "equipoise.solvers.algorithms.rollout_budgets"
sys.modules.pop(name, None)
open({str(tmp_path / "slow.py")!r}, "w").write("import time; time.sleep(5)")
sys.path.insert(0, {str(tmp_path)!r})
algorithms.algorithm_kinds = lambda: ("rollout_budgets",)
algorithms.importlib = type("", (), {{"import_module": staticmethod(lambda name: __import__("slow"))}})
seen = []
def watch(progress):
    seen.append(progress.stage)
    return len(seen) < 3
try:
    algorithms.load("rollout_budgets", watch)
except eq.SolveTimeout as error:
    print(len(seen), seen[0], error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/", timeout=60)
    assert done.stdout.startswith("3 compiling machine code, once interrupted while machine code was compiled")


def test_a_kind_without_an_algorithm_has_none() -> None:
    assert load("no_such_kind") is None


def test_a_certificate_tells_of_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    from equipoise.solvers import solve as module
    from equipoise.solvers.algorithms import Loaded

    monkeypatch.setattr(module, "load", lambda kind, watch: Loaded(Guess, 7.0))
    notes = eq.solve(SPEC, "fast").certificate.notes
    assert notes == ("machine code was compiled before the solve, once, in 7 s",)
