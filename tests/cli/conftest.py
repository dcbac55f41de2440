"""A user's working folder, with specs and a saved plan in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.algorithms import load

from .console import BAD, GOOD, INFEASIBLE


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


@pytest.fixture
def saved(folder: Path) -> Path:
    """A plan saved with its spec."""
    spec = eq.load("good.yaml")
    eq.save(eq.solve(spec), "plan.json", spec=spec)
    return folder / "plan.json"
