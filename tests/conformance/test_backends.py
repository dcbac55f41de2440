"""What every backend owes the solver: statuses, bounds, duals, limits, interruption, and no harm to its neighbours."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.answer import Backend, ProgramInfeasible
from equipoise.solvers.backends import make_backend
from equipoise.solvers.backends.highs import HighsBackend, _Watch
from equipoise.solvers.control import Control, Options, run_apart
from equipoise.solvers.program import Builder, Program

from . import programs

BACKENDS = ("highs", "flow", "pyomo:appsi_highs")
EXACT = Options("exact")


def solve(backend: Backend, program: Program, options: Options = EXACT, control: Control | None = None) -> Any:
    return backend.solve(program, options, control or Control(options.time_limit))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", programs.CASES, ids=lambda case: case.name)
def test_known_answers(name: str, case: programs.Case) -> None:
    backend = make_backend(name)
    if backend.refuses(case.program) is not None:
        pytest.skip(f"{name} states that it cannot solve this program")
    if case.optimum is None:
        with pytest.raises(ProgramInfeasible):
            solve(backend, case.program)
        return
    answer = solve(backend, case.program)
    assert answer.objective == pytest.approx(case.optimum, rel=1e-9)
    assert answer.stopped == "solved"
    room = 1e-9 * abs(case.optimum)
    assert (
        answer.bound >= case.optimum - room if case.program.sense == "maximise" else answer.bound <= case.optimum + room
    )
    assert len(answer.values) == case.program.columns
    assert (answer.values[case.program.integer] % 1 == 0).all()


def test_the_flow_backend_takes_exactly_the_transportation_problems() -> None:
    flow = make_backend("flow")
    taken = {case.name for case in programs.CASES if flow.refuses(case.program) is None}
    assert {name for name in taken if "transport" not in name} <= {"nothing"}
    assert {case.name for case in programs.CASES if "transport" in case.name} <= taken


@pytest.mark.parametrize("sense", ["maximise", "minimise"])
def test_duals_are_the_change_of_the_objective_with_the_bound(sense: str) -> None:
    program = programs.linear()
    if sense == "minimise":
        program = replace(program, sense="minimise", cost=-program.cost, offset=-program.offset)
    answer = solve(make_backend("highs"), program)
    for row in range(program.height):
        more = program.row_upper.copy()
        more[row] += 0.01
        moved = solve(make_backend("highs"), replace(program, row_upper=more))
        assert answer.row_duals[row] == pytest.approx((moved.objective - answer.objective) / 0.01, abs=1e-6)


def test_a_time_limit_is_kept_and_leaves_plan_bound_and_gap() -> None:
    program, started = programs.knapsack(60, 1), time.perf_counter()
    answer = solve(make_backend("highs"), program, Options("exact", time_limit=0.5))
    assert time.perf_counter() - started < 0.5 + 3.0
    assert answer.stopped == "time limit"
    assert answer.bound > answer.objective > 0
    assert (program.activity(answer.values) <= program.row_upper + 1e-6).all()


def test_a_call_that_cannot_be_stopped_is_left_behind_at_the_deadline() -> None:
    started = time.perf_counter()
    with pytest.raises(eq.SolveTimeout, match="no plan within"):
        run_apart(lambda: time.sleep(3), None, Control(0.05))
    assert time.perf_counter() - started < 2.0


def test_no_time_at_all_is_a_timeout() -> None:
    with pytest.raises(eq.SolveTimeout):
        solve(make_backend("highs"), programs.knapsack(60, 1), Options("exact", time_limit=0.0))


def test_a_watcher_sees_progress_and_can_stop() -> None:
    seen: list[eq.Progress] = []

    def watch(progress: eq.Progress) -> bool:
        seen.append(progress)
        return progress.objective is None or progress.seconds < 0.3

    answer = solve(make_backend("highs"), programs.knapsack(60, 2), control=Control(30.0, watch))
    assert answer.stopped == "interrupted"
    assert answer.bound > answer.objective > 0
    assert seen[-1].objective is not None
    assert seen[-1].bound is not None and seen[-1].bound >= seen[-1].objective


def test_a_backend_that_will_not_stop_is_left_behind_with_its_best_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equipoise.solvers.control.GRACE", 0.1)
    monkeypatch.setattr(_Watch, "stop", lambda watch: None)  # deaf to the stop button
    backend, program = make_backend("highs"), programs.knapsack(60, 2)
    monkeypatch.setattr(HighsBackend, "_set_options", forget_the_time_limit)
    answer = solve(backend, program, Options("exact", time_limit=0.5))
    assert answer.stopped == "time limit"
    assert "abandoned" in answer.notes[0]
    assert answer.bound > answer.objective > 0
    assert (program.activity(answer.values) <= program.row_upper + 1e-6).all()


def forget_the_time_limit(backend: Any, model: Any, program: Program, options: Options, control: Control) -> None:
    model.setOptionValue("threads", options.threads)
    model.setOptionValue("time_limit", 2.0)  # so that the thread left behind ends with the tests


def test_a_gap_that_is_asked_for_ends_the_search_early() -> None:
    answer = solve(make_backend("highs"), programs.knapsack(60, 3), Options("exact", gap=0.05))
    assert answer.stopped in ("gap", "solved")
    assert (answer.bound - answer.objective) / answer.objective <= 0.05


def test_an_interrupted_backend_solves_the_next_program() -> None:
    backend = make_backend("highs")
    with pytest.raises(eq.SolveTimeout):
        solve(backend, programs.knapsack(60, 4), Options("exact", time_limit=0.0))
    assert solve(backend, programs.linear()).objective == pytest.approx(11.5)


def test_a_warm_backend_gives_the_answers_of_a_cold_one() -> None:
    random, warm = np.random.default_rng(7), make_backend("highs")
    for step in range(20):
        scores = random.random((12, 4)).round(3).tolist()
        program = programs.transport(scores, [1] * 12, [int(random.integers(3, 5))] * 4)
        if step % 5 == 4:
            program = programs.with_cost(programs.whole(), random.random(2).tolist())
        assert solve(warm, program).objective == pytest.approx(
            solve(make_backend("highs"), program).objective, rel=1e-9
        )


def test_solves_in_two_threads_do_not_disturb_each_other() -> None:
    """HiGHS keeps an executor per thread, sized by that thread's first solve: mixed thread counts are its trap."""
    cases = [programs.whole(), programs.linear(), programs.knapsack(12, 5), programs.knapsack(14, 6)]
    alone = [solve(make_backend("highs"), program).objective for program in cases]
    failures: list[str] = []

    def worker(offset: int) -> None:
        backend = make_backend("highs")
        for turn in range(16):
            number = (turn + offset) % len(cases)
            threads = 1 + (turn + offset) % 2
            try:
                got = solve(backend, cases[number], Options("exact", threads=threads)).objective
            except eq.EquipoiseError as error:
                failures.append(f"{number}: {error!r}")
                continue
            if abs(got - alone[number]) > 1e-9 * abs(alone[number]):
                failures.append(f"{number}: {got} instead of {alone[number]}")

    workers = [threading.Thread(target=worker, args=(offset,)) for offset in range(3)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join(timeout=120)
        assert not thread.is_alive()
    assert failures == []


def test_one_stopped_solve_does_not_stop_its_neighbour() -> None:
    outcome: list[str] = []

    def neighbour() -> None:
        outcome.append(solve(make_backend("highs"), programs.knapsack(22, 8)).stopped)

    thread = threading.Thread(target=neighbour)
    thread.start()
    with pytest.raises(eq.SolveTimeout):
        solve(make_backend("highs"), programs.knapsack(60, 9), Options("exact", time_limit=0.0))
    thread.join(timeout=120)
    assert outcome == ["solved"]


def test_the_same_seed_and_threads_take_the_same_path() -> None:
    one, other = (solve(make_backend("highs"), programs.knapsack(16, 10), Options("exact", seed=3)) for _ in range(2))
    assert np.array_equal(one.values, other.values)


MALFORMED = [
    ("a cost is not finite", lambda b: b.columns("x", 1, cost=np.nan)),
    ("a bound is not a number", lambda b: b.columns("x", 1, lower=np.nan)),
    ("infinite on the wrong side", lambda b: b.columns("x", 1, lower=np.inf)),
    ("a coefficient is not finite", lambda b: b.entries(b.rows("r", 1), b.columns("x", 1), np.inf)),
    ("a row that is not there", lambda b: b.entries(5, b.columns("x", 1))),
    ("a column that is not there", lambda b: b.entries(b.rows("r", 1), b.columns("x", 1) + 3)),
    ("share a row and a column", lambda b: b.entries(b.rows("r", 1), np.tile(b.columns("x", 1), 2))),
]


@pytest.mark.parametrize(("words", "spoil"), MALFORMED, ids=[words for words, _ in MALFORMED])
def test_a_malformed_program_never_reaches_a_backend(words: str, spoil: Any) -> None:
    builder = Builder("minimise")
    spoil(builder)
    with pytest.raises(ValueError, match=words):
        builder.build()


def test_coefficients_that_highs_would_drop_are_refused() -> None:
    builder = Builder("minimise")
    builder.entries(builder.rows("r", 1, upper=1.0), builder.columns("x", 1), 1e-10)
    with pytest.raises(eq.UnsupportedError, match="would drop"):
        solve(make_backend("highs"), builder.build())


def test_an_unbounded_program_is_an_error_and_not_an_answer() -> None:
    builder = Builder("maximise")
    builder.columns("x", 1, cost=1.0)
    with pytest.raises((eq.BackendError, ProgramInfeasible)):
        solve(make_backend("highs"), builder.build())


@pytest.mark.parametrize(
    ("name", "words"),
    [("higs", "did you mean 'highs'"), ("pyomo:", "must be one of"), ("pyomo:no_such_solver", "finds no solver")],
)
def test_an_unknown_backend_is_told(name: str, words: str) -> None:
    with pytest.raises(eq.UnsupportedError, match=words):
        make_backend(name)


@pytest.mark.parametrize(
    "options",
    [
        {"time_limit": -1.0},
        {"gap": float("nan")},
        {"threads": 0},
        {"seed": 1.5},
        {"method": "quick"},
        {"threads": True},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(eq.UnsupportedError, match=next(iter(options))):
        Options(**options)


def test_highspy_and_ortools_load_in_one_process() -> None:
    """highspy 1.15 and ortools 9.15 cannot: the pin in pyproject.toml holds until they can."""
    import subprocess
    import sys

    for order in ("highspy, ortools.graph.python.min_cost_flow", "ortools.graph.python.min_cost_flow, highspy"):
        done = subprocess.run(
            [sys.executable, "-c", f"import {order}; import highspy; h = highspy.Highs()"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("minor", "words"), [(14, "calls wrong answers optimal"), (15, "crash in one process")])
def test_a_highspy_that_cannot_be_used_is_named(minor: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import highspy

    monkeypatch.setattr(highspy, "HIGHS_VERSION_MINOR", minor)
    with pytest.raises(eq.BackendError, match=rf"{words}.*install highspy>=1\.13\.1,<1\.14"):
        make_backend("highs")
