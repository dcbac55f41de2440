"""How good an answer is, and why to believe it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveInt,
)

Status = Literal["optimal", "feasible"]
Proof = Literal["dual", "threshold", "search"]
Sense = Literal["maximise", "minimise"]
Stopped = Literal["solved", "gap", "time limit", "interrupted"]

OPTIMAL_GAP = 1e-9
"""The largest relative gap of an answer that calls itself optimal by a dual or threshold proof."""
SEARCH_TOLERANCE = 1e-6
"""The largest relative gap of an answer that calls itself optimal by a backend's finished search."""

NonNegative = Annotated[FiniteFloat, Field(ge=0)]


def _number(value: float) -> float:
    if math.isnan(value):
        raise ValueError("must be a number, got nan")
    return value


# JSON has no infinity: a bound that nothing is known about travels as a string.
Extended = Annotated[
    float,
    BeforeValidator(lambda value: float(value) if value in ("inf", "-inf") else value),
    AfterValidator(_number),
    PlainSerializer(lambda value: value if math.isfinite(value) else str(value), when_used="json"),
]


class Certificate(BaseModel):
    """Objective, bound and gap of a plan, how they were found, and what is needed to find them again.

    objective: what the plan achieves, in the units of the spec's objective.
    bound: what no plan can beat.
    gap: |objective − bound| / |objective| (see `docs/certificates.md` for the two exceptions).
    violation: the largest amount by which a rule is broken; 0 in every answer of `solve`.
    proof: why to believe the bound. `dual` and `threshold` are proved again by `check`; `search` is the
        branch and bound of the backend named.
    method: the method and the backend that ran, with version.
    stopped: what ended the solve: `solved`, or a limit (`gap`, `time limit`, `interrupted`).
    notes: whatever else a user should know: rounded data, a guess behind the numbers, a backend left behind.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Status
    sense: Sense
    objective: FiniteFloat
    bound: Extended
    gap: Extended
    violation: NonNegative
    proof: Proof
    method: str
    seconds: NonNegative
    stopped: Stopped = "solved"
    backend: str
    seed: NonNegativeInt
    threads: PositiveInt
    time_limit: NonNegative | None = None
    gap_asked: NonNegative
    spec_digest: str | None = None
    versions: dict[str, str] = {}
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON carries it."""
        return self.model_dump(mode="json", exclude_defaults=False)


def relative_gap(objective: float, bound: float, scale: float | None = None) -> float:
    """|objective − bound| / |scale|, where the scale is the objective unless given; 0/0 is 0."""
    difference = abs(objective - bound)
    if difference == 0:
        return 0.0
    over = abs(objective if scale is None else scale)
    return difference / over if over > 0 else math.inf
