"""Who decides: rules of today's routers by name, and ours, a session of a client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import equipoise as eq
from equipoise.benchmarks.decode_replay.traces import Trace
from equipoise.solvers.baselines import decode_rules
from equipoise.solvers.baselines.decode_snapshot import Rule, Snapshot
from equipoise.specs.decode_allocation import PATIENCE

OURS = "equipoise"
NAMES = (*decode_rules.RULES, OURS)


def overdue(trace: Trace, queue: int, places: int) -> int:
    """Steps of waiting from which on nobody may be overtaken: the rule of the spec, from the trace's usual length."""
    return max(1, round(PATIENCE * queue / places * float(np.exp(np.log(trace.output).mean()))))


@contextmanager
def rule(name: str, client: eq.Client, first: Snapshot, seed: int, max_bypass: int, limit: float) -> Iterator[Rule]:
    """A rule by name. Ours is a session of its own, opened on the first step, so that it is warm when that comes.

    limit: seconds for a decision. Raises `ServiceError` where the client cannot reach its service.
    """
    if name != OURS:
        made = decode_rules.RULES[name](seed)
        made(first)  # machine code is loaded
        yield made
        return
    spec = eq.DecodeAllocation(workers={"slots": first.slots}, max_bypass=max_bypass, **_tables(first))
    with client.session(spec, "fast", seed=seed, timeout=limit) as session:
        session.step()

        def ours(step: Snapshot) -> np.ndarray:
            return session.step(**_tables(step)).worker

        yield ours


def _tables(step: Snapshot) -> dict[str, dict[str, np.ndarray]]:
    active = {"worker": step.worker, "tokens": step.tokens}
    return {"active": active, "waiting": {"tokens": step.waiting_tokens, "waited": step.waited}}
