"""The loop that trains a mixture-of-experts model: it runs, measures and tells what its numbers say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """The script as one would start it, in a process whose path starts with its folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-W", "error", str(EXAMPLES / "train_moe.py"), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_every_method_trains_and_the_exact_plan_is_level_and_drops_nothing(tmp_path: Path):
    plot = tmp_path / "train_moe.png"
    sizes = ["--experts", "4", "--width", "16", "--hidden", "8", "--layers", "1", "--heads", "2"]
    length = ["--context", "16", "--tokens", "64", "--steps", "4", "--judge-every", "2", "--judge-batches", "1"]
    methods = ["none", "auxiliary", "loss_free", "bip", "quantile", "capped", "exact"]
    ended = run(*sizes, *length, "--seeds", "2", "--workers", "1", "--out", str(plot))
    assert ended.returncode == 0, ended.stderr
    rows = {cells[0]: cells[1:] for cells in re.findall(r"│ (\w+) +│(.*)│(.*)│(.*)│(.*)│(.*)│(.*)│", ended.stdout)}
    assert list(rows) == methods
    _, _, average, largest, _, dropped = rows["exact"]
    assert [cell.split()[0] for cell in (average, largest, dropped)] == ["0.000", "0.00", "0.00"]
    assert float(rows["none"][2].split()[0]) > 0
    assert rows["capped"][5].split()[0] == "0.00"
    assert "4 experts, loss beside that of none, 95 %: " in ended.stdout
    assert "largest gap of any certificate 0.0e+00" in ended.stdout
    assert plot.stat().st_size > 10_000


def test_tokens_that_do_not_fill_the_context_are_refused():
    ended = run("--tokens", "100", "--context", "64")
    assert ended.returncode == 2
    assert "--tokens: must be a multiple of --context, 64, got 100" in ended.stderr


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the loop says of methods, given their losses by seed and their violation."""
    monkeypatch.syspath_prepend(EXAMPLES)
    report, training = import_module("moe.report"), import_module("moe.training")

    def verdict(**methods: tuple[list[float], float]) -> str:
        runs = [
            training.Run(training.Task(name, 16, seed), judged=[(1, loss)], violation=[[violation]])
            for name, (losses, violation) in methods.items()
            for seed, loss in enumerate(losses)
        ]
        return report.verdict(report.outcomes(runs, list(methods)))

    return verdict


def test_losses_that_differ_by_more_than_chance_are_told_so(told: Any):
    said = told(none=([2.0, 2.1, 2.2], 4.0), bip=([2.31, 2.4, 2.49], 0.5), exact=([1.9, 2.01, 2.09], 0.0))
    assert "lower: exact (-0.100 ± 0.025); higher: bip (+0.300 ± 0.025)." in said
    assert "The evenest load, that of exact, has the lowest mean loss." in said
    assert "did not improve" not in said


def test_where_balance_does_not_improve_the_loss_it_is_said(told: Any):
    said = told(none=([2.0, 2.1, 2.2], 4.0), exact=([2.01, 2.08, 2.22], 0.0))
    assert "not shown to differ: exact (+0.003 ± " in said
    assert "The evenest load, that of exact, did not improve the loss as far as these seeds show." in said
    assert "The lowest mean loss, that of none, is not that of the evenest load, exact's" in said


def test_equally_even_methods_are_told_together(told: Any):
    said = told(none=([2.0, 2.1, 2.2], 4.0), capped=([1.9, 2.01, 2.09], 0.0), exact=([1.95, 2.06, 2.14], 0.0))
    assert "The evenest load, that of capped and exact, has the lowest mean loss." in said


def test_one_seed_tells_nothing(told: Any):
    assert "one seed each" in told(none=([2.0], 4.0), exact=([1.0], 0.0))
