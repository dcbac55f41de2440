"""Decode steps to test on: small ones of every form, edges, and busy workers like those of a replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import equipoise as eq
from equipoise.solvers.decode_bounds import counting_bound
from equipoise.solvers.decode_step import decode_step
from equipoise.specs.decode_allocation import DecodePlan

from .oracles import decode_allocation as oracle

EXAMPLES = Path(eq.__file__).parent / "specs" / "examples"

SETTINGS = [(objective, admission) for objective in ("step_time", "imbalance") for admission in ("window", "fifo")]
SIZES = [[0, 1, 2, 3, 4], [5, 5, 8], [100, 400, 900, 4000]]
AHEAD = [0, 4, 16, 64, 256, 1024]


def random_spec(seed: int) -> eq.DecodeAllocation:
    """A small step: both objectives and admissions in turn, the rest by chance. All numbers are multiples of ¼."""
    random = np.random.default_rng(seed)
    workers, waiting, active = (int(random.integers(low, high)) for low, high in ((2, 5), (1, 7), (0, 6)))
    waiting = min(waiting, 5) if workers == 4 else waiting
    objective, admission = SETTINGS[seed % 4]
    sizes = SIZES[int(random.integers(3))]

    def chance(share: float) -> bool:
        return bool(random.random() < share)

    def remaining(rows: int) -> Any:
        if chance(0.2):
            return None
        return np.sort(random.integers(1, 12, (rows, 2)), axis=1) if chance(0.3) else random.integers(1, 12, rows)

    places: dict[str, Any] = {"slots": random.integers(0, 5, workers)}
    table: dict[str, Any] = {"tokens": random.choice(sizes, waiting), "remaining": remaining(waiting)}
    if chance(0.5):
        places["kv_capacity"] = random.integers(0, 4 * max(sizes) + 8, workers)
    if chance(0.3):
        places["speed"] = random.choice([0.5, 1.0, 2.0], workers)
    if chance(0.5):
        table["waited"] = random.integers(0, 6, waiting)
    if chance(0.3):
        table["priority"] = random.choice([-1.0, 0.0, 2.5], waiting)
    if chance(0.3):
        table["affinity"] = np.floor(table["tokens"][:, None] * random.random((waiting, workers)) * 2) / 2
    return eq.DecodeAllocation(
        workers=places,
        active={
            "worker": random.integers(0, workers, active),
            "tokens": random.choice(sizes, active),
            "remaining": remaining(active),
        },
        waiting=table,
        horizon=[[0, 2, 8], [0], [1, 5], 3][int(random.integers(4))],
        discount=float(random.choice([0.5, 0.7, 1.0])),
        growth=float(random.choice([0.0, 0.5, 1.0, 2.5])),
        objective=objective,
        admission=admission,
        max_bypass=int(random.integers(1, 6)),
    )


small = st.integers(0, 3)


@st.composite
def edges(draw: Any, workers: int = 1, horizons: tuple[list[int], ...] = ([0], [0, 2], [3], [9])) -> Any:
    """Nothing waiting, nothing active, no slot, one worker, ties everywhere, all overdue, all gone, memory full.

    workers: how many there are at least.
    """
    slots = draw(st.lists(small, min_size=workers, max_size=3))
    waiting = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), small), max_size=4))
    active = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(1, 4)), max_size=4))
    capacity = draw(st.none() | st.integers(0, 14))
    objective, admission = draw(st.sampled_from(SETTINGS))
    columns = list(zip(*waiting, strict=True)) or [(), (), ()]
    residents = list(zip(*active, strict=True)) if active and slots else [(), (), ()]
    return eq.DecodeAllocation(
        workers={"slots": slots} | ({} if capacity is None else {"kv_capacity": [capacity] * len(slots)}),
        active={
            "worker": [worker % len(slots) for worker in residents[0]],
            "tokens": list(residents[1]),
            "remaining": list(residents[2]),
        },
        waiting={"tokens": list(columns[0]), "remaining": list(columns[1]), "waited": list(columns[2])},
        horizon=draw(st.sampled_from(horizons)),
        objective=objective,
        admission=admission,
        max_bypass=2,
    )


def real_step(seed: int, workers: int = 8, objective: Any = "imbalance", **fields: Any) -> eq.DecodeAllocation:
    """Busy workers, level to within a request, and a pool of four requests per worker; weighed far ahead."""
    random = np.random.default_rng(seed)
    slots, free = 24, workers // 2 + 1
    worker = random.permutation(np.repeat(np.arange(workers), slots))[free:]
    waiting = 4 * workers
    return eq.DecodeAllocation(
        workers={"slots": [slots] * workers},
        active={
            "worker": worker,
            "tokens": random.lognormal(6.6, 0.5, len(worker)).astype(int),
            "remaining": random.geometric(1 / 200, len(worker)),
        },
        waiting={
            "tokens": random.lognormal(6.6, 1.0, waiting).astype(int) + 1,
            "remaining": random.geometric(1 / 200, waiting),
            "waited": np.arange(waiting)[::-1],
        },
        objective=objective,
        **{"horizon": AHEAD, **fields},
    )


def hold_against_enumeration(spec: eq.DecodeAllocation) -> DecodePlan:
    """Solve a small step and hold everything about the answer against the enumeration."""
    best, plan = oracle.best(spec), eq.solve(spec, "exact", backend="highs")
    quick = eq.solve(spec, "exact")  # our own search first, and the program where that leaves a gap
    assert int((quick.worker >= 0).sum()) == best.admitted
    assert quick.certificate.objective == pytest.approx(best.objective, rel=1e-9, abs=1e-9)
    assert quick.certificate.status == "optimal"
    assert eq.check(spec, quick).ok
    assert int((plan.worker >= 0).sum()) == best.admitted
    assert plan.certificate.objective == pytest.approx(best.objective, rel=1e-9, abs=1e-9)
    assert plan.certificate.status == "optimal"
    result = eq.check(spec, plan)
    assert result.ok, result.problems
    room = 1e-9 * max(1.0, best.objective)
    assert result.bound is not None
    assert result.bound <= best.objective + room
    assert spec.bound(decode_step(spec).report(np.full(len(spec.waiting), -1))) <= best.objective + room
    if spec.workers.kv_capacity is not None:
        assert counting_bound(decode_step(spec), 0) <= best.objective + room
    return plan
