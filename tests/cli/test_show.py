"""`equipoise show`: a saved plan as `solve` prints it."""

from __future__ import annotations

import pytest

import equipoise as eq

from .console import run, strict


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
