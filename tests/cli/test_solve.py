"""`equipoise solve`: what it prints, what it answers with, and where it puts plans."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.records import line
from equipoise.solvers.solve import Solver

from .console import BAD, GOOD, NOTHING, raising, run, strict


@pytest.mark.usefixtures("folder")
def test_solve_prints_the_decision_beside_what_the_spec_knows_and_the_certificate() -> None:
    result = run("solve", "good.yaml")
    assert result.exit_code == 0
    for words in (
        "rollout_budgets  small  good.yaml",
        "prompt   successes   trials   rollouts",
        "status     optimal",
        "expected gradient value, maximised",
        "threshold",
        "equipoise best marginal values",
        "checked: every rule and claim recomputed from the spec ✓",
    ):
        assert words in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["bad.yaml"], 2, ["error: bad.yaml:3: prompts.successes[1]: must be at least 0, got -4"]),
        (["bad.yaml"], 2, ["error: bad.yaml:6: leats", "did you mean 'least'?"]),
        (["missing.yaml"], 2, ["error: missing.yaml: No such file"]),
        (["infeasible.yaml"], 3, ["error: infeasible.yaml: infeasible: ", "total is 1", "set total to 4"]),
        (["hard.json", "--time-limit", "0"], 4, ["error: hard.json: no feasible plan was found", "time limit"]),
        (["good.yaml", "--method", "fast", "--backend", "highs"], 2, ["error: ", "'fast' runs no backend"]),
        (["good.yaml", "--method", "slow"], 2, ["'slow'", "exact"]),
        (["good.yaml", "--backend", "higs"], 2, ["error: backend", "did you mean 'highs'?"]),
        (["good.yaml", "--time-limit", "nan"], 2, ["error: time_limit", "nan"]),
        (["good.yaml", "--gap", "-1"], 2, ["error: gap", "-1"]),
        (["good.yaml", "--threads", "0"], 2, ["error: threads", "0"]),
        (["good.yaml", "--sead", "1"], 2, ["No such option", "--seed"]),
        (["good.yaml", "-o", "plan.txt"], 2, ["error: plan.txt: cannot save as .txt"]),
        (["good.yaml", "-o", "nowhere/plan.json"], 2, ["error: nowhere/plan.json: there is no folder nowhere"]),
        (["good.yaml", "good.yaml", "-o", "plan.json"], 2, ["plan.json: is one file, for 2 plans; name a folder"]),
        (["good.yaml", "-o", "good.yaml"], 2, ["error: good.yaml: is the spec itself"]),
        ([], 2, ["Missing argument", "SPEC"]),
    ],
)
@pytest.mark.usefixtures("folder")
def test_solve_answers_each_failure_with_its_code_and_says_why_on_standard_error(
    arguments: list[str], code: int, words: list[str]
) -> None:
    result = run("solve", *arguments)
    assert result.exit_code == code
    assert result.stdout == ""
    assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize("error", [eq.BackendError, eq.ServiceError])
@pytest.mark.usefixtures("folder")
def test_a_failing_backend_answers_5(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Solver, "solve", raising(error("it fell over")))
    result = run("solve", "good.yaml")
    assert (result.exit_code, result.stderr) == (5, "error: good.yaml: it fell over\n")


@pytest.mark.usefixtures("folder")
def test_an_unexpected_exception_is_told_as_a_bug_and_shows_its_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Solver, "solve", raising(KeyError("lost")))
    result = run("solve", "good.yaml", "infeasible.yaml")
    assert result.exit_code == 5
    assert result.stderr.count("this is a bug in Equipoise") == 2
    assert "EQUIPOISE_DEBUG=1" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("--debug", "solve", "good.yaml").stderr
    monkeypatch.setenv("EQUIPOISE_DEBUG", "1")
    assert "Traceback" in run("solve", "good.yaml").stderr


@pytest.mark.usefixtures("folder")
def test_a_plan_that_fails_its_check_is_told_answers_1_and_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = eq.solve(eq.load("good.yaml"))
    worse = type(plan)(**{**plan.fields(), "rollouts": [8, 8, 9]}).with_certificate(plan.certificate)
    monkeypatch.setattr(Solver, "solve", lambda *_: worse)
    result = run("solve", "good.yaml", "-o", "plan.json")
    assert result.exit_code == 1
    assert "check failed:" in result.stdout
    assert "sum to 25, must sum to 24" in result.stdout
    assert not Path("plan.json").exists()


@pytest.mark.usefixtures("folder")
def test_several_specs_are_all_tried_and_the_largest_code_counts() -> None:
    result = run("solve", "bad.yaml", "good.yaml", "infeasible.yaml", "good.yaml")
    assert result.exit_code == 3
    assert result.stdout.count("status     optimal") == 2
    assert "error: bad.yaml:3" in result.stderr
    assert "error: infeasible.yaml" in result.stderr


@pytest.mark.parametrize("given", [GOOD, json.dumps(NOTHING)])
def test_a_dash_reads_a_spec_from_standard_input(given: str) -> None:
    result = run("solve", "-", given=given)
    assert result.exit_code == 0
    assert "<stdin>" in result.stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (BAD, "error: <stdin>:3: prompts.successes[1]"),
        ("", "error: <stdin>: is empty"),
        (b"kind: \xff", "error: <stdin>: is not UTF-8 text"),
    ],
)
def test_a_bad_spec_on_standard_input_is_named(given: str | bytes, words: str) -> None:
    result = run("solve", "-", given=given)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.usefixtures("folder")
def test_json_is_strict_and_one_line_per_spec_errors_included() -> None:
    result = run("solve", "good.yaml", "bad.yaml", "infeasible.yaml", "--json", "--compare")
    good, bad, infeasible = map(strict, result.stdout.splitlines())
    assert result.exit_code == 3
    assert [document["exit_code"] for document in (good, bad, infeasible)] == [0, 2, 3]
    assert (good["kind"], good["name"], good["file"]) == ("rollout_budgets", "small", "good.yaml")
    assert sum(good["plan"]["rollouts"]) == 24
    assert good["certificate"]["status"] == "optimal"
    assert good["check"]["ok"]
    assert good["error"] is None
    assert good["baselines"][0]["name"] == "uniform"
    assert good["baselines"][0]["gain"] >= 0
    assert (bad["plan"], bad["error"]["type"]) == (None, "SpecError")
    assert bad["error"]["problems"][0] == {
        "file": "bad.yaml",
        "line": 3,
        "field": "prompts.successes[1]",
        "message": "must be at least 0, got -4",
    }
    assert infeasible["error"]["type"] == "InfeasibleError"
    assert set(infeasible["error"]["fields"]) == {"total", "least"}
    assert infeasible["error"]["change"]["total"] == 4


def test_json_writes_what_is_not_finite_as_strings() -> None:
    document = {"array": np.array([-math.inf, 1.0]), "number": math.inf, "within": [{"other": math.nan}]}
    assert strict(line(document)) == {"array": ["-inf", 1.0], "number": "inf", "within": [{"other": "nan"}]}


@pytest.mark.parametrize("suffix", ["json", "yaml", "safetensors"])
@pytest.mark.usefixtures("folder")
def test_a_saved_plan_is_a_bundle_that_check_accepts(suffix: str) -> None:
    result = run("solve", "good.yaml", "-o", f"plan.{suffix}")
    assert result.exit_code == 0
    assert f"saved, with its spec: plan.{suffix}" in result.stdout
    again = run("check", f"plan.{suffix}")
    assert again.exit_code == 0
    assert "checked: every rule and claim recomputed from the spec ✓" in again.stdout


@pytest.mark.usefixtures("folder")
def test_plans_of_several_specs_go_to_a_folder_none_over_another() -> None:
    Path("other").mkdir()
    Path("other/good.yaml").write_text(GOOD.replace("24", "30"))
    assert run("solve", "good.yaml", "other/good.yaml", "-", "-o", "plans", given=GOOD).exit_code == 0
    names = sorted(path.name for path in Path("plans").iterdir())
    assert names == ["good-2.plan.json", "good.plan.json", "stdin.plan.json"]
    sums = [sum(strict(Path("plans", name).read_text())["plan"]["rollouts"]) for name in names]
    assert sums == [30, 24, 24]


@pytest.mark.usefixtures("folder")
def test_compare_shows_the_gain_over_todays_practice() -> None:
    result = run("solve", "good.yaml", "--compare")
    for words in ("today's practice", "uniform", "this plan", "the plan", "gains", "+", "rules"):
        assert words in result.stdout


@pytest.mark.usefixtures("folder")
def test_long_plans_are_cut_short_and_summed_up_unless_all_is_asked_for() -> None:
    Path("long.yaml").write_text(
        f"kind: rollout_budgets\nprompts: {{successes: {[4] * 30}, trials: {[8] * 30}}}\ntotal: 240\n"
    )
    short, whole = run("solve", "long.yaml").stdout, run("solve", "long.yaml", "--all").stdout
    assert "… 22 more" in short
    assert "■" in short
    assert "\n      29 " not in short
    assert "… 22 more" not in whole
    assert "29           4        8          8" in whole


def test_names_are_printed_as_they_are_never_as_markup_or_control_codes() -> None:
    result = run("solve", "-", given=json.dumps({**NOTHING, "name": "[red]x[/red] \x1b[31m:smile:"}))
    assert "[red]x[/red] \\x1b[31m:smile:" in result.stdout
    assert "no prompts: nothing to decide" in result.stdout
