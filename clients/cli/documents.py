"""What became of the specs of a command, as JSON documents."""

from __future__ import annotations

from typing import Any

from ...solvers.baselines import Comparison
from ...solvers.records import plan_document
from .solving import Outcome


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """What became of one spec. `plan`, `certificate` and `check` are null where it did not come to them."""
    spec, plan = outcome.spec, outcome.plan
    document = {"file": outcome.file, "exit_code": outcome.code, **plan_document(plan, spec, outcome.check)}
    if outcome.baselines is not None:
        document["baselines"] = [_comparison(baseline) for baseline in outcome.baselines]
    if outcome.saved is not None:
        document["saved"] = str(outcome.saved)
    document["error"] = None if outcome.failure is None else outcome.failure.document()
    return document


def _comparison(baseline: Comparison) -> dict[str, Any]:
    return {
        "name": baseline.name,
        "objective": baseline.objective,
        "gain": baseline.gain,
        "broken": baseline.broken,
        "measures": dict(baseline.measures),
    }
