"""The session benchmark solves what it says: the same changing tasks, cold and warm, of every kind."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.specs.spec import kinds

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
benchmark: Any = importlib.import_module("session_speed")


def test_every_kind_is_measured() -> None:
    assert set(benchmark.CHANGES) == set(kinds())


@pytest.mark.parametrize("kind", benchmark.CHANGES)
def test_cold_and_warm_take_the_same_steps(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[float, float]] = []

    def compare(kind: str, alone: Any, plan: Any) -> None:
        compared.append((alone.certificate.objective, plan.certificate.objective))
        true_compare(kind, alone, plan)

    true_compare = benchmark._compare
    monkeypatch.setattr(benchmark, "_compare", compare)
    row = benchmark.measure(kind, 0, 3, 1, {}, True)
    assert (len(row["cold"]), len(row["warm"])) == (3, 3)  # the first step of each does not count
    assert len({cold for cold, _ in compared}) == 4  # every step is another task


def test_answers_that_differ_beyond_their_gaps_stop_the_benchmark() -> None:
    def plan(objective: float, gap: float) -> Any:
        return SimpleNamespace(certificate=SimpleNamespace(objective=objective, gap=gap))

    benchmark._compare("kind", plan(100.0, 1e-3), plan(100.1, 1e-3))
    with pytest.raises(SystemExit, match="in a session"):
        benchmark._compare("kind", plan(100.0, 1e-3), plan(100.3, 1e-3))


def test_a_change_leaves_the_rest_of_the_task_as_it_was() -> None:
    for kind, change in benchmark.CHANGES.items():
        make = benchmark.SIZES[kind][0][1]
        before = make(0)
        changes = change(before, make(1), np.random.default_rng(0))
        after: eq.Spec[Any] = before.replace(**changes)
        assert after != before
        assert after.replace(**{name: before.fields()[name] for name in changes}) == before
