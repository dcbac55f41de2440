"""What people do today, one module per kind: the rules that an optimal plan is compared with.

A module `baselines/KIND.py` names its rules in `BASELINES`, the most common first. A baseline returns a plan
without certificate, and may break the spec's rules: that is part of what the comparison shows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...specs.spec import Plan, Spec


@dataclass(frozen=True)
class Comparison:
    """One baseline, judged by the spec.

    broken: how many rules of the spec it breaks. gain: relative improvement of the plan's objective over the
    baseline's, positive where the plan is better.
    """

    name: str
    plan: Plan
    objective: float
    broken: int
    measures: Mapping[str, float]
    gain: float


def baselines(kind: str) -> Mapping[str, Callable[[Any], Plan]]:
    """Today's rules for a kind of task, by name; none where there is no module for it."""
    package = __package__ or ""
    try:
        module = importlib.import_module(f".{kind}", package)
    except ModuleNotFoundError as error:
        if error.name != f"{package}.{kind}":
            raise
        return {}
    return module.BASELINES


def compare(spec: Spec[Any], plan: Plan) -> list[Comparison]:
    """What a plan gains over each of today's rules, on the same spec."""
    achieved = spec.objective(plan)
    found = []
    for name, rule in baselines(spec.kind).items():
        other = rule(spec)
        objective = spec.objective(other)
        better = achieved - objective if spec.sense == "maximise" else objective - achieved
        gain = better / abs(objective) if objective else 0.0 if better == 0 else float("inf")
        broken = sum(1 for _ in spec.rules(other))
        found.append(Comparison(name, other, objective, broken, spec.measures(other), gain))
    return found
