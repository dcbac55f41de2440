"""Plans, certificates and what `check` found as JSON. Strict JSON: what is not finite travels as a string."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..specs.saving import inline
from ..specs.spec import Plan, Spec
from .check import CheckResult


def line(document: Mapping[str, Any]) -> str:
    """A document as one line of strict JSON."""
    plain = inline(document)
    try:
        return json.dumps(plain, allow_nan=False)
    except ValueError:  # few documents hold what is not finite
        return json.dumps(strict(plain), allow_nan=False)


def strict(value: Any) -> Any:
    """A document in which every number is finite; the others become the strings "inf", "-inf" and "nan"."""
    if isinstance(value, Mapping):
        return {name: strict(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(entry) for entry in value]
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def plan_document(plan: Plan | None, spec: Spec[Any] | None, result: CheckResult | None) -> dict[str, Any]:
    """A plan, its certificate and what `check` found, each null where it is not there."""
    known = plan if plan is not None else spec
    return {
        "kind": None if known is None else known.kind,
        "name": None if known is None else known.name,
        "plan": None if plan is None else plan.fields(),
        "certificate": plan.certificate.document() if plan is not None and plan.certified else None,
        "check": None if result is None else check_document(result),
    }


def check_document(result: CheckResult) -> dict[str, Any]:
    """What `check` found."""
    return {
        "ok": result.ok,
        "problems": list(result.problems),
        "objective": result.objective,
        "bound": result.bound,
        "gap": result.gap,
        "violation": result.violation,
        "trusted": result.trusted or None,
    }
