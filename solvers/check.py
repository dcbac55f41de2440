"""Judging a plan by the spec alone: feasibility, objective and bound, recomputed from scratch.

Nothing here comes from a solver. What a plan means is stated in its spec's `rules`, `objective` and `bound`;
this module holds the certificate against them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..specs.certificate import OPTIMAL_GAP, SEARCH_TOLERANCE, Certificate, Sense
from ..specs.errors import SpecError
from ..specs.spec import ROUNDING, Plan, Spec

TOLERANCE = 1e-9
"""Relative room for the rounding of a recomputed objective or bound."""
SHOWN = 20
"""Broken rules listed at most."""


@dataclass(frozen=True)
class CheckResult:
    """What is true of a plan, whatever its certificate says.

    problems: every claim or rule that does not hold, in words; none for a good plan.
    objective: recomputed, None where a rule is broken. bound: what the spec and the plan prove by themselves.
    gap: between these two. violation: the largest amount by which a rule is broken.
    trusted: what remains the backend's word; empty where all is proved here.
    """

    problems: tuple[str, ...]
    objective: float | None
    bound: float | None
    gap: float | None
    violation: float
    trusted: str

    @property
    def ok(self) -> bool:
        """Whether every rule and every claim holds."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok


def check(spec: Spec[Any], plan: Plan) -> CheckResult:
    """Hold a plan, and its certificate if it has one, against its spec. Raises `SpecError` for anything else."""
    if not isinstance(spec, Spec) or not isinstance(plan, Plan):
        raise SpecError(f"check takes a spec and a plan, got {type(spec).__name__} and {type(plan).__name__}")
    if plan.kind != spec.kind:
        text = f"the plan is one of {plan.kind}, the spec one of {spec.kind}"
        return CheckResult((text,), None, None, None, 0.0, "")
    broken = list(islice(spec.rules(plan), SHOWN + 1))
    problems = [str(rule) for rule in broken[:SHOWN]]
    if plan.name != spec.name:
        problems.append(f"name is {plan.name!r}, the spec's is {spec.name!r}")
    if len(broken) > SHOWN:
        problems.append("and more rules are broken")
    violation = max((rule.amount for rule in broken), default=0.0)
    if broken:  # what such a plan achieves has no meaning
        return CheckResult(tuple(problems), None, None, None, violation, "")
    objective, bound = spec.objective(plan), spec.bound(plan)
    gap = None if bound is None else spec.gap(plan, objective, bound)
    trusted = ""
    if plan.certified:
        claims = _Claims(spec, plan, plan.certificate, objective, bound)
        problems += claims.problems()
        trusted = claims.trusted()
    return CheckResult(tuple(problems), objective, bound, gap, violation, trusted)


@dataclass(frozen=True)
class _Claims:
    """A certificate beside what was recomputed."""

    spec: Spec[Any]
    plan: Plan
    certificate: Certificate
    objective: float
    bound: float | None

    def problems(self) -> list[str]:
        claim, found = self.certificate, list[str]()
        if claim.sense != self.spec.sense:
            found.append(f"certificate.sense is {claim.sense}, the spec's is {self.spec.sense}")
        if not self._close(claim.objective, self.objective):
            found.append(f"certificate.objective is {claim.objective!r}, but the plan achieves {self.objective!r}")
        if claim.violation != 0:
            found.append(f"certificate.violation is {claim.violation!r}, and a plan must break no rule")
        if _stronger(claim.bound, claim.objective, claim.sense) and not self._close(claim.objective, claim.bound):
            found.append(f"certificate.bound is {claim.bound!r}, which the plan itself beats with {claim.objective!r}")
        found += self._bound_problems()
        gap = self.spec.gap(self.plan, claim.objective, claim.bound)
        if claim.gap != gap and not abs(claim.gap - gap) <= TOLERANCE:
            found.append(f"certificate.gap is {claim.gap!r}, but objective and bound are {gap!r} apart")
        room = SEARCH_TOLERANCE if claim.proof == "search" else OPTIMAL_GAP
        if claim.status == "optimal" and not gap <= room:
            found.append(f"certificate.status is optimal, with a gap of {gap!r}")
        if claim.status == "optimal" and claim.proof == "search" and claim.stopped != "solved":
            found.append(f"certificate.status is optimal, by a search that was stopped by {claim.stopped}")
        # Saved as lists, or not.
        digests = (self.spec.digest(listed) for listed in (False, True))
        if claim.spec_digest is not None and claim.spec_digest not in digests:
            found.append("certificate.spec_digest is that of another spec")
        return found

    def _bound_problems(self) -> list[str]:
        claim = self.certificate
        if claim.proof == "search":
            return []
        if self.bound is None:
            return [f"certificate.proof is {claim.proof}, but the plan proves no bound"]
        if _stronger(claim.bound, self.bound, claim.sense) and not self._close(claim.bound, self.bound):
            return [f"certificate.bound is {claim.bound!r}, but the plan proves no more than {self.bound!r}"]
        return []

    def trusted(self) -> str:
        claim = self.certificate
        if claim.proof != "search":
            return ""
        if self.bound is not None and not _stronger(claim.bound, self.bound, claim.sense):
            return ""
        return f"the bound {claim.bound:.10g} is the word of {claim.backend}"

    def _close(self, one: float, other: float) -> bool:
        if not (math.isfinite(one) and math.isfinite(other)):
            return one == other
        room = TOLERANCE * max(abs(one), abs(other)) + ROUNDING * self.spec.magnitude(self.plan)
        return abs(one - other) <= room


def _stronger(claimed: float, proved: float, sense: Sense) -> bool:
    """Whether a claimed bound promises more than a proved one does."""
    return claimed < proved if sense == "maximise" else claimed > proved
