"""What does a batch of decoding requests weigh on each worker over a horizon, and which slots do admitted ones take.

The loads are those of decode allocation: a request counts at a step of the horizon while it has steps remaining, with
the tokens it will have grown to by then.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import Inputs, number, whole
from .segments import Groups, sure


class Admitted(NamedTuple):
    """Slots after an admission.

    slots (workers, places): request ids, −1: free. place (requests,) int64: which place of its worker each waiting
    request took, −1: none. refused () int64: requests that had a worker, but no free place there.
    """

    slots: Tensor
    place: Tensor
    refused: Tensor


def project_loads(
    worker: Tensor, tokens: Tensor, remaining: Tensor, horizon: Tensor, workers: int, growth: float = 1.0
) -> Tensor:
    """(workers, entries) float64: Σ of tokens + growth·h over a worker's requests with more than h steps remaining.

    worker (requests,): −1 for none; tokens (requests,) resident; remaining (requests,) steps; horizon (entries,)
    steps ahead. Requests are added up in their order. Raises `TypeError` and `ValueError` for wrong dtypes, shapes
    and devices, and `ValueError` for a worker of `workers` or more (on a GPU: a device assertion).
    """
    inputs = Inputs()
    inputs.take("worker", worker, "requests", "whole")
    for name, tensor in (("tokens", tokens), ("remaining", remaining)):
        real = isinstance(tensor, Tensor) and tensor.is_floating_point()
        inputs.take(name, tensor, "requests", "real" if real else "whole")
    inputs.take("horizon", horizon, "entries", "whole")
    return _project(worker, tokens, remaining, horizon, whole("workers", workers, 0), number("growth", growth))


def admit(slots: Tensor, waiting: Tensor, worker: Tensor) -> Admitted:
    """Put waiting requests into slots: the i-th placed on a worker, in queue order, takes its i-th free place.

    slots (workers, places): request ids, −1: free; waiting (requests,): their ids, from 0; worker (requests,): where
    a plan puts each, −1: it waits. `slots` is left as it is. Raises `TypeError` and `ValueError` for wrong dtypes,
    shapes and devices, and `ValueError` for a worker that is not there, or an id below 0 (on a GPU: a device
    assertion).
    """
    inputs = Inputs()
    inputs.take("slots", slots, "workers places", "whole")
    inputs.take("waiting", waiting, "requests", "whole")
    inputs.take("worker", worker, "requests", "whole")
    return Admitted(*_admit(slots, waiting, worker))


@torch.library.custom_op("equipoise::project_loads", mutates_args=())
def _project(worker: Tensor, tokens: Tensor, remaining: Tensor, horizon: Tensor, workers: int, growth: float) -> Tensor:
    sure("worker", worker, worker < workers, f"below workers, {workers}", "raise workers, or pass −1 for none")
    grown = tokens.to(torch.float64)[:, None] + growth * horizon.to(torch.float64)
    left = remaining.to(torch.float64) if remaining.is_floating_point() else remaining
    load = torch.where(left[:, None] > horizon, grown, 0.0)
    return Groups(worker, workers).sums(load)[:workers]


@_project.register_fake
def _(worker: Tensor, tokens: Tensor, remaining: Tensor, horizon: Tensor, workers: int, growth: float) -> Tensor:
    return tokens.new_empty((workers, horizon.shape[0]), dtype=torch.float64)


@torch.library.custom_op("equipoise::admit", mutates_args=())
def _admit(slots: Tensor, waiting: Tensor, worker: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    workers, places = slots.shape
    below = worker < workers
    sure(
        "worker", worker, below, f"below the number of workers, {workers}", "give slots a row more, or pass −1 to wait"
    )
    named = (waiting >= 0) | (worker < 0)
    sure("waiting", waiting, named, "at least 0", "−1 stands for a free slot: count request ids from 0")
    if slots.dtype != waiting.dtype:
        most = torch.iinfo(slots.dtype).max
        sure("waiting", waiting, waiting <= most, f"at most {most}, which {slots.dtype} holds", "pass slots in int64")
    # A last row stands for no worker, a last column for no free place.
    order = slots.new_full((workers + 1, places + 1), -1, dtype=torch.int64)
    held, free = (slots >= 0).sort(dim=1, stable=True)
    order[:workers, :places] = free.masked_fill(held, -1)
    groups = Groups(worker, workers)
    on, by_worker = groups.key, groups.sorted.order
    before = torch.empty_like(on)
    before[by_worker] = torch.arange(len(on), device=on.device)
    before -= (groups.sizes.cumsum(0) - groups.sizes)[on]
    place = order[on, before.clamp_max(places)]
    spot = torch.where(place < 0, slots.numel(), on * places + place)
    filled = torch.cat([slots.flatten(), slots.new_zeros(1)])
    filled.scatter_(0, spot, waiting.to(slots.dtype))
    return filled[:-1].reshape(workers, places).clone(), place, ((worker >= 0) & (place < 0)).sum()


@_admit.register_fake
def _(slots: Tensor, waiting: Tensor, worker: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (
        slots.new_empty(slots.shape),
        waiting.new_empty(waiting.shape, dtype=torch.int64),
        waiting.new_empty((), dtype=torch.int64),
    )
