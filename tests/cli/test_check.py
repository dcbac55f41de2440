"""`equipoise check`: a plan against its own spec or another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import equipoise as eq

from .console import GOOD, run, strict


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
