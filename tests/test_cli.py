"""The command line: what each command prints, what it answers with, and how it stops."""

from __future__ import annotations

import json
import math
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import equipoise as eq
from equipoise.clients.cli import figures
from equipoise.clients.cli.app import app
from equipoise.clients.cli.documents import line
from equipoise.solvers.algorithms import load
from equipoise.solvers.solve import Solver
from equipoise.specs.spec import kinds

EXAMPLES = Path(eq.__file__).parent / "specs" / "examples"
COMMAND = [sys.executable, "-m", "equipoise"]

GOOD = "kind: rollout_budgets\nname: small\nprompts: {successes: [0, 4, 8], trials: [8, 8, 8]}\ntotal: 24\n"
BAD = "kind: rollout_budgets\nprompts:\n  successes: [0, -4]\n  trials: [8, 8]\ntotal: 24\nleats: 1\n"
NOTHING = {"kind": "rollout_budgets", "prompts": {"successes": [], "trials": []}, "total": 0}
INFEASIBLE = "kind: rollout_budgets\nprompts: {successes: [0, 4], trials: [8, 8]}\ntotal: 1\n"


def hard() -> str:
    """400 prompts of one group whose token budget is a knapsack: the search does not close its last 1e-5."""
    random = np.random.default_rng(1)
    trials = np.full(400, 8)
    successes = random.binomial(trials, random.beta(0.5, 0.5, 400))
    tokens = np.round(random.lognormal(7, 0.6, 400), 3)
    prompts = {"successes": successes.tolist(), "trials": trials.tolist(), "tokens": tokens.tolist()}
    groups = {"name": ["all"], "most": [50_000]}
    fields = {"prompts": prompts | {"group": ["all"] * 400}, "groups": groups, "token_budget": 3e6}
    return json.dumps({"kind": "rollout_budgets"} | fields)


@pytest.fixture(scope="module", autouse=True)
def _machine_code_is_on_disk() -> None:
    """Compiling, once per machine, is told on the terminal; here it has happened before."""
    load("rollout_budgets")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user with a good, a bad, an infeasible and a hard spec, and no settings of their own."""
    for name, text in (("good", GOOD), ("bad", BAD), ("infeasible", INFEASIBLE)):
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "hard.json").write_text(hard())
    monkeypatch.chdir(tmp_path)
    for variable in ("EQUIPOISE_DEBUG", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def run(*arguments: str, given: str | bytes | None = None, width: int = 100) -> Result:
    return CliRunner().invoke(app, list(arguments), input=given, env={"COLUMNS": str(width)})


def strict(text: str) -> Any:
    """A JSON document, refused if it holds what JSON does not have."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


# solve


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
        (["good.yaml", "--backend", "higs"], 2, ["error: good.yaml: backend", "did you mean 'highs'?"]),
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


# how a solve is watched and stopped


def start(arguments: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """The command with a terminal of its own as standard error, and the end of it that a person would see."""
    seen, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=terminal, env=environment)
    os.close(terminal)
    return process, seen


def read_until(seen: int, words: bytes | None) -> bytes:
    """What the terminal shows up to some words, or to the end."""
    shown = b""
    while words is None or words not in shown:
        try:
            part = os.read(seen, 4096)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            assert words is None, f"{words!r} never came: {shown!r}"
            break
        shown += part
    return shown


@pytest.mark.usefixtures("folder")
def test_ctrl_c_stops_a_long_solve_with_the_best_plan_so_far() -> None:
    arguments = ["solve", "hard.json", "good.yaml", "--method", "exact", "--json", "--time-limit", "60", "-o", "plans"]
    process, seen = start(arguments)
    shown = read_until(seen, b"incumbent")
    assert b"gap" in read_until(seen, b"bound") + shown
    process.send_signal(signal.SIGINT)
    rest = read_until(seen, None)
    output, _ = process.communicate()
    stopped, left = map(strict, output.decode().splitlines())
    assert process.returncode == 130
    assert b"stopping with the best plan so far" in rest
    assert stopped["certificate"]["stopped"] == "interrupted"
    assert stopped["certificate"]["status"] == "feasible"
    assert 0 < stopped["certificate"]["gap"] < 1e-3
    assert stopped["check"]["ok"]
    assert left["error"] == {"type": "Interrupted", "message": "not solved: interrupted before its turn"}
    assert run("check", "plans/hard.plan.json").exit_code == 0
    os.close(seen)


@pytest.mark.usefixtures("folder")
def test_a_second_ctrl_c_quits_at_once() -> None:
    process, seen = start(["solve", "hard.json", "--method", "exact", "--time-limit", "60"])
    read_until(seen, b"incumbent")
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    pressed = time.perf_counter()
    output, _ = process.communicate()
    assert process.returncode == 130
    assert time.perf_counter() - pressed < 1
    assert output == b""
    os.close(seen)


@pytest.mark.usefixtures("folder")
def test_an_interrupt_before_any_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(solver: Solver, spec: Any, watch: Callable[[eq.Progress], bool]) -> NoReturn:
        os.kill(os.getpid(), signal.SIGINT)
        assert watch(eq.Progress(0.0)) is False
        raise eq.SolveTimeout("no feasible plan was found")

    monkeypatch.setattr(Solver, "solve", interrupted)
    before = signal.getsignal(signal.SIGINT)
    result = run("solve", "good.yaml", "infeasible.yaml")
    assert result.exit_code == 130
    assert "error: good.yaml: interrupted before any plan was found" in result.stderr
    assert "error: infeasible.yaml: not solved: interrupted before its turn" in result.stderr
    assert signal.getsignal(signal.SIGINT) is before


def test_a_backend_that_was_given_up_does_not_change_the_exit_code() -> None:
    """The interpreter shuts down under a thread that never comes back."""
    code = """
import sys, threading, time
from equipoise.clients.cli import app
from equipoise.solvers import control
thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
control._running.add(thread)
thread.start()
sys.argv = ["equipoise", "example", "no_such_kind"]
app.main()
"""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no kind of task" in done.stderr
    assert time.perf_counter() - started < 30


@pytest.mark.usefixtures("folder")
def test_a_short_solve_shows_no_progress() -> None:
    process, seen = start(["solve", "good.yaml"])
    shown = read_until(seen, None)
    assert process.wait() == 0
    assert shown == b""
    process.communicate()
    os.close(seen)


@pytest.mark.usefixtures("folder")
def test_no_progress_is_drawn_where_nobody_looks() -> None:
    arguments = [*COMMAND, "solve", "hard.json", "--method", "exact", "--time-limit", "1.5"]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "FORCE_COLOR": "1"})
    assert done.returncode == 0
    assert done.stderr == ""
    assert "by the time limit" in done.stdout


@pytest.mark.usefixtures("folder")
def test_a_broken_pipe_ends_quietly() -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen([*COMMAND, "solve", "good.yaml"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    os.close(reading)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (141, b"")


# check and show


@pytest.fixture
def saved(folder: Path) -> Path:
    """A plan saved with its spec."""
    spec = eq.load("good.yaml")
    eq.save(eq.solve(spec), "plan.json", spec=spec)
    return folder / "plan.json"


def tampered(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = strict(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.usefixtures("saved")
def test_check_holds_a_plan_against_its_own_spec_or_another() -> None:
    assert run("check", "plan.json").exit_code == 0
    assert run("check", "good.yaml", "plan.json").exit_code == 0
    assert run("check", "-", "plan.json", given=GOOD).exit_code == 0
    other = run("check", "-", "plan.json", given=GOOD.replace("24", "25"))
    assert other.exit_code == 1
    assert "sum to 24, must sum to 25" in other.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document["plan"].update(rollouts=[8, 8, 9]), "rollouts sum to 25, must sum to 24"),
        (lambda document: document["certificate"].update(objective=9.0), "certificate.objective is 9.0"),
        (lambda document: document["plan"].update(price=0.5), "price is 0.5"),
    ],
)
def test_check_names_what_a_tampered_plan_breaks(
    saved: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    tampered(saved, change)
    result = run("check", "plan.json")
    assert result.exit_code == 1
    assert words in result.stdout
    document = strict(run("check", "plan.json", "--json").stdout)
    assert not document["check"]["ok"]
    assert any(words in problem for problem in document["check"]["problems"])
    assert run("show", "plan.json").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bare.json"], "was saved without its spec"),
        (["good.yaml"], "is a spec; name its plan too"),
        (["plan.json", "good.yaml"], "plan.json: is a saved plan, not a spec"),
        (["good.yaml", "bad.yaml"], "bad.yaml:1: is not a saved plan"),
        (["missing.json"], "No such file"),
    ],
)
@pytest.mark.usefixtures("saved")
def test_check_says_which_file_it_wants(arguments: list[str], words: str) -> None:
    eq.save(eq.load_plan("plan.json"), "bare.json")
    result = run("check", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert run("solve", "plan.json").exit_code == 2


@pytest.mark.usefixtures("saved")
def test_show_prints_a_saved_plan_as_solve_does() -> None:
    solved, shown = run("solve", "good.yaml").stdout, run("show", "plan.json").stdout
    without_time = [
        [row for row in text.splitlines()[1:] if not row.lstrip().startswith("time")] for text in (solved, shown)
    ]
    assert without_time[0] == without_time[1]
    assert strict(run("show", "plan.json", "--json").stdout)["check"]["ok"]


@pytest.mark.usefixtures("saved")
def test_show_says_that_a_plan_without_its_spec_is_not_checked() -> None:
    eq.save(eq.load_plan("plan.json"), "bare.json")
    result = run("show", "bare.json")
    assert result.exit_code == 0
    assert "not checked: saved without its spec" in result.stdout
    assert "prompt   rollouts" in result.stdout


# schema, example, export and the rest


def test_schema_describes_every_kind_and_every_field() -> None:
    schema = strict(run("schema").stdout)
    names = {reference["$ref"].rpartition("/")[2] for reference in schema["oneOf"]}
    assert names == {spec.__name__ for spec in kinds().values()}
    for kind, spec in kinds().items():
        one = strict(run("schema", kind).stdout)
        assert one["properties"]["kind"]["const"] == kind
        assert "kind" in one["required"]
        undescribed = [name for name, field in one["properties"].items() if "description" not in field]
        tables = [name for name in undescribed if "$ref" in str(one["properties"][name])]
        assert undescribed == ["kind", *tables] or undescribed == tables, spec


def test_schema_takes_a_table_by_columns_by_rows_or_from_a_file() -> None:
    prompts = strict(run("schema", "rollout_budgets").stdout)["$defs"]["Prompts"]
    columns, rows, reference = prompts["anyOf"]
    assert columns["properties"]["successes"]["anyOf"][0]["items"] == {"type": "integer", "minimum": 0}
    assert rows["items"]["properties"]["successes"]["minimum"] == 0
    assert reference["required"] == ["file"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("minimal/*.yaml")), ids=lambda path: path.stem)
def test_each_example_is_printed_as_it_stands_and_is_ready_to_solve(path: Path) -> None:
    shown = run("example", path.stem)
    assert shown.stdout_bytes == path.read_bytes()
    solved = run("solve", "-", "--compare", given=shown.stdout, width=80)
    assert solved.exit_code == 0, solved.output
    assert "nan" not in solved.stdout
    tables = solved.stdout.partition("checked:")[0]
    assert max(map(len, tables.splitlines())) <= 80


def test_unknown_kinds_get_a_suggestion() -> None:
    for command in ("example", "schema"):
        result = run(command, "rollout_budget")
        assert result.exit_code == 2
        assert "did you mean 'rollout_budgets'?" in result.stderr


@pytest.mark.parametrize("suffix", ["mps", "lp", "nl"])
@pytest.mark.usefixtures("folder")
def test_export_writes_the_program(suffix: str) -> None:
    result = run("export", "good.yaml", "--to", f"model.{suffix}")
    assert result.exit_code == 0
    assert f"wrote model.{suffix}" in result.stdout
    assert Path(f"model.{suffix}").stat().st_size > 100


@pytest.mark.usefixtures("folder")
def test_export_refuses_what_it_cannot_write() -> None:
    assert run("export", "good.yaml", "--to", "model.txt").exit_code == 2
    assert run("export", "bad.yaml", "--to", "model.mps").exit_code == 2
    assert run("export", "good.yaml").exit_code == 2


def test_version_and_help() -> None:
    assert run("--version").stdout == f"equipoise {eq.__version__}\n"
    for command in ([], ["solve"], ["check"], ["show"], ["schema"], ["example"], ["export"]):
        result = run(*command, "--help")
        assert result.exit_code == 0
        assert "$ equipoise" in result.stdout


def test_help_loads_no_solver() -> None:
    code = (
        "import sys\n"
        "from equipoise.clients.cli.app import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True).stderr
    assert not {"numpy", "highspy", "ortools", "pyomo", "torch"} & set(loaded.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_there(shell: str) -> None:
    environment = {**os.environ, "_EQUIPOISE_COMPLETE": f"source_{shell}"}
    program = Path(sys.executable).with_name("equipoise")
    done = subprocess.run([program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert "_EQUIPOISE_COMPLETE" in done.stdout


def test_kinds_are_completed() -> None:
    environment = {
        **os.environ,
        "_EQUIPOISE_COMPLETE": "complete_bash",
        "COMP_WORDS": "equipoise example roll",
        "COMP_CWORD": "2",
    }
    program = Path(sys.executable).with_name("equipoise")
    done = subprocess.run([program], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["rollout_budgets"]


# how numbers are printed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234567.0, "1,234,567"),
        (11.757716336484368, "11.7577"),
        (266828.1497, "266,828"),
        (0.0009593013, "0.000959301"),
        (2.5e-9, "2.5e-09"),
        (0.1 + 0.2, "0.3"),
        (-0.0, "0"),
        (math.inf, "∞"),
    ],
)
def test_numbers_are_printed_to_the_digits_that_mean_something(value: float, text: str) -> None:
    assert figures.number(value) == text


def test_columns_line_up_and_two_numbers_are_told_apart() -> None:
    assert figures.column(np.array([1234.5678, 2.0, 0.25])) == ["1,234.6", "2.0", "0.2"]
    assert figures.column(np.array([1200, 7])) == ["1,200", "7"]
    assert figures.column(np.array([-np.inf, 0.5])) == ["−∞", "0.50000"]
    assert figures.distinct(20.6841867, 20.6846430) == ("20.68419", "20.68464")
    assert figures.distinct(3.0, 3.0) == ("3", "3")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0041, "4.1 ms"), (0.4573, "0.46 s"), (12.34, "12.3 s"), (205.0, "3 min 25 s")]
)
def test_times_are_printed_in_fitting_units(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text


def raising(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: Any) -> NoReturn:
        raise error

    return fail


# what is compiled beforehand


def test_warmup_has_the_machine_code_ready_and_says_what_it_took() -> None:
    result = run("warmup", "rollout_budgets")
    assert result.exit_code == 0
    head, row = result.stdout.splitlines()[:2]
    assert head.split() == ["kind", "functions", "compiled", "now", "seconds"]
    assert row.split()[0] == "rollout_budgets"


def test_warmup_knows_the_kinds() -> None:
    result = run("warmup", "rollouts")
    assert result.exit_code == 2
    assert "did you mean 'rollout_budgets'?" in result.stderr
