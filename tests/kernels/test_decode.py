"""Loads of decoding batches as their spec counts them, and admitted requests taking slots as a queue would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import equipoise as eq
from equipoise.kernels import decode
from equipoise.kernels.decode import admit, project_loads
from equipoise.specs.decode_allocation import DecodePlan

CASES = {"usual": (40, 6, 5), "one worker": (9, 1, 3), "one request": (1, 4, 6), "no requests": (0, 3, 2)}


@pytest.mark.parametrize("growth", [0.0, 1.0, 2.7])
@pytest.mark.parametrize("name", CASES)
def test_loads_are_those_of_a_loop_over_requests(name: str, growth: float) -> None:
    requests, workers, entries = CASES[name]
    generator = np.random.default_rng(1)
    worker = generator.integers(-1, workers, requests)
    tokens, remaining = generator.integers(0, 5000, requests), generator.integers(1, 40, requests)
    horizon = np.cumsum(generator.integers(0, 12, entries))
    load = np.zeros((workers, entries))
    for one in range(requests):
        for entry, step in enumerate(horizon):
            if worker[one] >= 0 and remaining[one] > step:
                load[worker[one], entry] += tokens[one] + growth * step
    given = [torch.from_numpy(column) for column in (worker, tokens, remaining, horizon)]
    got = project_loads(given[0], given[1], given[2], given[3], workers, growth)
    assert got.dtype == torch.float64 and torch.equal(got, torch.from_numpy(load))


def spec_and_tensors(growth: float) -> tuple[eq.DecodeAllocation, dict[str, Tensor]]:
    generator = np.random.default_rng(2)
    drawn: dict[str, Any] = {
        "active": {
            "worker": generator.integers(0, 4, 30),
            "tokens": generator.integers(1, 3000, 30),
            "remaining": generator.integers(1, 300, 30),
        },
        "waiting": {"tokens": generator.integers(1, 3000, 12), "remaining": generator.integers(1, 300, 12)},
    }
    slots = np.bincount(drawn["active"]["worker"], minlength=4) + 2
    spec = eq.DecodeAllocation(workers={"slots": slots}, horizon=[0, 4, 16, 64, 256], growth=growth, **drawn)  # pyright: ignore
    tensors = {
        f"{table} {name}": torch.from_numpy(column) for table, its in drawn.items() for name, column in its.items()
    }
    return spec, tensors | {"slots": torch.from_numpy(slots), "horizon": torch.tensor([0, 4, 16, 64, 256])}


@pytest.mark.parametrize("growth", [1.0, 2.7])
def test_the_spec_counts_the_same_loads_before_and_after_a_plan(growth: float) -> None:
    """The spec's own judgement of reported loads finds no fault, and finds one where they are off by a millionth."""
    spec, given = spec_and_tensors(growth)
    placed = torch.arange(12) % 5 - 1
    load = project_loads(
        torch.cat([given["active worker"], placed]),
        torch.cat([given["active tokens"], given["waiting tokens"]]),
        torch.cat([given["active remaining"], given["waiting remaining"]]),
        given["horizon"],
        4,
        growth,
    ).numpy()

    def reported(load: np.ndarray) -> DecodePlan:
        return DecodePlan(worker=placed.numpy(), load=load, step_time=load.max(axis=0))  # pyright: ignore

    assert not list(spec.reports(reported(load)))
    assert list(spec.reports(reported(load * (1 + 1e-6))))


def test_a_solved_plan_is_admitted_whole_and_weighs_what_it_says() -> None:
    spec, given = spec_and_tensors(1.0)
    plan = eq.solve(spec, method="fast")
    slots = torch.full((4, int(given["slots"].max())), -1)
    for request, worker in enumerate(given["active worker"].tolist()):
        slots[worker, (slots[worker] >= 0).sum()] = request
    for worker, places in enumerate(given["slots"].tolist()):
        slots[worker, places:] = 10**6  # no slots there
    after = admit(slots, 30 + torch.arange(12), torch.tensor(plan.worker))
    assert int(after.refused) == 0 and ((after.place >= 0).numpy() == (plan.worker >= 0)).all()
    held = (after.slots >= 0) & (after.slots < 42)
    worker, request = held.nonzero()[:, 0], after.slots[held]
    tokens = torch.cat([given["active tokens"], given["waiting tokens"]])[request]
    remaining = torch.cat([given["active remaining"], given["waiting remaining"]])[request]
    assert torch.equal(project_loads(worker, tokens, remaining, given["horizon"], 4), torch.tensor(plan.load))


@pytest.mark.parametrize(
    ("workers", "places", "requests"), [(5, 4, 12), (1, 3, 9), (3, 0, 4), (4, 6, 0), (0, 3, 2), (7, 1, 1)]
)
def test_requests_take_free_places_in_the_order_of_the_queue(workers: int, places: int, requests: int) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        slots = torch.randint(-1, 2, (workers, places), generator=generator)
        slots = torch.where(slots < 0, -1, torch.arange(workers * places).reshape(workers, places))
        waiting = 1000 + torch.randperm(requests, generator=generator)
        worker = (
            torch.randint(-1, max(workers, 0), (requests,), generator=generator)
            if workers
            else torch.full((requests,), -1)
        )
        wanted, place, refused = slots.clone(), [], 0
        for identity, one in zip(waiting.tolist(), worker.tolist(), strict=True):
            free = (wanted[one] < 0).nonzero()[:, 0].tolist() if one >= 0 else []
            place.append(free[0] if free else -1)
            refused += one >= 0 and not free
            if free:
                wanted[one, free[0]] = identity
        before = slots.clone()
        got = admit(slots, waiting, worker)
        assert torch.equal(got.slots, wanted) and got.place.tolist() == place and int(got.refused) == refused
        assert torch.equal(slots, before)


def test_index_types_and_strides_are_kept() -> None:
    slots = torch.tensor([[7, -1], [-1, 5], [-1, -1]], dtype=torch.int32).t()
    got = admit(slots, torch.tensor([1, 2, 3]), torch.tensor([1, 0, 1], dtype=torch.int32))
    assert got.slots.dtype == torch.int32 and got.slots.tolist() == [[7, 2, -1], [1, 5, 3]]
    real = project_loads(
        torch.tensor([0, 0]), torch.tensor([1.5, 2.25]), torch.tensor([1.0, 2.5]), torch.tensor([0, 2]), 1
    )
    assert real.tolist() == [[3.75, 4.25]]


BATCH = (
    torch.tensor([0, 1, -1, 1]),
    torch.tensor([10, 20, 30, 40]),
    torch.tensor([1, 5, 9, 17]),
    torch.tensor([0, 4, 16]),
)
QUEUE = torch.tensor([[5, -1, -1], [-1, 7, -1]]), torch.tensor([11, 12, 13, 14, 15]), torch.tensor([1, 0, 1, 1, -1])
OPERATORS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "project_loads": (decode._project, (*BATCH, 3, 1.0)),
    "admit": (decode._admit, QUEUE),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operators_are_registered_as_torch_wants_them(name: str) -> None:
    torch.library.opcheck(*OPERATORS[name])


def acted(batch: tuple[Tensor, ...], queue: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (project_loads(*batch, 3), *admit(*queue))  # pyright: ignore


def test_a_compiled_graph_keeps_them_whole() -> None:
    compiled = torch.compile(acted, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(one, other) for one, other in zip(compiled(BATCH, QUEUE), acted(BATCH, QUEUE), strict=True))


WORKER, TOKENS, REMAINING, HORIZON = BATCH
SLOTS, WAITING, PLACED = QUEUE
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "tokens of other requests": (
        lambda: project_loads(WORKER, TOKENS[:2], REMAINING, HORIZON, 3),
        ValueError,
        "tokens: has 2",
    ),
    "a worker too many": (
        lambda: project_loads(*BATCH, 1),
        ValueError,
        r"worker\[.\]: must be below workers, 1, got .: raise workers",
    ),
    "real workers": (lambda: project_loads(WORKER / 2, *BATCH[1:], 3), TypeError, "worker: must be int32 or int64"),
    "tokens are a list": (
        lambda: project_loads(WORKER, [1], REMAINING, HORIZON, 3),  # pyright: ignore
        TypeError,
        "tokens: must be a tensor",
    ),
    "a horizon of pairs": (lambda: project_loads(WORKER, TOKENS, REMAINING, SLOTS, 3), ValueError, r"axes \(entries\)"),
    "a negative number of workers": (lambda: project_loads(*BATCH, -1), ValueError, "workers: must be at least 0"),
    "growth without end": (lambda: project_loads(*BATCH, 3, float("inf")), ValueError, "growth: .* got inf"),
    "growth in words": (lambda: project_loads(*BATCH, 3, "1"), TypeError, "growth: .* got str"),  # pyright: ignore
    "slots of one axis": (lambda: admit(SLOTS[0], WAITING, PLACED), ValueError, r"slots: .* axes \(workers, places\)"),
    "other requests": (
        lambda: admit(SLOTS, WAITING[:3], PLACED),
        ValueError,
        "worker: has 5 requests, but waiting has 3",
    ),
    "a worker that is not there": (
        lambda: admit(SLOTS[:1], WAITING, PLACED),
        ValueError,
        r"worker\[0\]: .* number of workers, 1, got 1",
    ),
    "an id below 0": (
        lambda: admit(SLOTS, WAITING - 12, PLACED),
        ValueError,
        r"waiting\[.\]: must be at least 0, got -.: .* from 0",
    ),
    "real ids": (lambda: admit(SLOTS, WAITING / 2, PLACED), TypeError, "waiting: must be int32 or int64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_refused_in_words(name: str) -> None:
    call, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_remains_is_compared_exactly_whatever_its_dtype(dtype: torch.dtype) -> None:
    remaining = torch.tensor([2.0**12 if dtype != torch.float32 else 2.0**24 + 4], dtype=dtype)
    horizon = remaining.to(torch.int64) - 1
    assert project_loads(torch.tensor([0]), torch.tensor([3]), remaining, horizon, 1, 0.0).tolist() == [[3.0]]


def test_slots_too_narrow_for_the_ids_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"waiting\[0\]: must be at most 2147483647, .* got 4294967295: pass slots in int64"
    ):
        admit(torch.full((1, 2), -1, dtype=torch.int32), torch.tensor([2**32 - 1]), torch.tensor([0]))
