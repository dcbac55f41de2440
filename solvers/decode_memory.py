"""Whether requests fit into the KV caches, decided without rounding.

Everything is counted in whole units, of which `per_token` make a token: under a growth of 2.7 tokens per step
all loads are whole tenths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..specs.decode_allocation import Active, DecodeAllocation, Waiting
from ..specs.exact import exact
from .program import Floats, Integers

Units = NDArray[Any]
"""Whole units: int64 or, where that is too short, Python integers."""


def lasting(requests: Active | Waiting, horizon: Integers) -> Floats:
    """(requests × horizon) 1 while a request is there, ½ between the two predictions of a pair, 0 after."""
    if requests.remaining is None or not len(requests):
        return np.ones((len(requests), len(horizon)))
    pairs = requests.remaining.reshape(len(requests), -1)
    first, last = pairs[:, :1], pairs[:, -1:]
    return (first > horizon) * 0.5 + (last > horizon) * 0.5


@dataclass(frozen=True)
class KVCaches:
    """Room for new requests in the KV caches.

    room: (workers × horizon) units, 0 where the active requests alone are at the limit or beyond it.
    """

    spec: DecodeAllocation
    per_token: int
    room: Units

    @property
    def short(self) -> bool:
        """Whether the units fit into int64."""
        return self.room.dtype != np.object_

    @cached_property
    def tables(self) -> tuple[Units, Units, Units]:
        """Units that the waiting requests take up without prefix caches, and how much of each is there in halves,
        (horizon × waiting) each; units that a prefix cache saves, (workers × waiting), no rows without any.
        """
        waiting, kind = self.spec.waiting, self.room.dtype
        halves = np.ascontiguousarray(_halves(self.spec, waiting, kind).T)
        needed = np.ascontiguousarray(_grown(self.spec, waiting, self.per_token, kind).T) * halves // 2
        if waiting.affinity is None:
            return needed, halves, np.zeros((0, 0), kind)
        saved = _scaled(waiting.affinity.ravel(), self.per_token, kind).reshape(waiting.affinity.shape)
        return needed, halves, np.ascontiguousarray(saved.T)

    def needed(self, requests: Integers, workers: Integers) -> Units:
        """(n × horizon) units that each of n waiting requests takes on the worker beside it."""
        waiting, kind = self.spec.waiting, self.room.dtype
        needed = _grown(self.spec, waiting, self.per_token, kind)[requests]
        if waiting.affinity is not None:
            needed = needed - _scaled(waiting.affinity[requests, workers], self.per_token, kind)[:, None]
        return needed * _halves(self.spec, waiting, kind)[requests] // 2


def kv_caches(spec: DecodeAllocation) -> KVCaches | None:
    """The KV limits of a spec; None if it has none."""
    if spec.workers.kv_capacity is None:
        return None
    per_token, short = kv_units(spec)
    kind = np.dtype(np.int64 if short else np.object_)
    held = np.zeros((len(spec.workers), len(spec.horizon)), kind)
    active = _grown(spec, spec.active, per_token, kind) * _halves(spec, spec.active, kind) // 2
    np.add.at(held, spec.active.worker, active)
    capacity: Units = spec.workers.kv_capacity.astype(kind)
    return KVCaches(spec, per_token, np.maximum(capacity[:, None] * per_token - held, 0))


class KVUnits(NamedTuple):
    """How many units make a token, and whether all that is counted in them fits into int64."""

    per_token: int
    short: bool


def kv_units(spec: DecodeAllocation) -> KVUnits:
    """The units of the KV limits that a spec has."""
    pairs = any(table.remaining is not None and table.remaining.ndim == 2 for table in (spec.active, spec.waiting))
    affinity = np.zeros(0) if spec.waiting.affinity is None else spec.waiting.affinity
    broken = np.unique(affinity[np.floor(affinity) != affinity]).tolist()
    per_token = math.lcm(exact(spec.growth).denominator, *(exact(value).denominator for value in broken)) * (1 + pairs)
    requests = len(spec.active) + len(spec.waiting) + 1
    capacity = np.zeros(0) if spec.workers.kv_capacity is None else spec.workers.kv_capacity
    tokens = float(spec.active.tokens.sum() + spec.waiting.tokens.sum()) + float(capacity.sum(dtype=np.float64))
    largest = tokens + spec.growth * float(spec.horizon[-1]) * requests
    return KVUnits(per_token, per_token.bit_length() <= 61 and largest * per_token < 2.0**61)


def _grown(spec: DecodeAllocation, requests: Active | Waiting, per_token: int, kind: np.dtype[Any]) -> Units:
    """(requests × horizon) units of each request as long as it is there, prefix caches aside."""
    growth = int(exact(spec.growth) * per_token)
    steps = np.array([growth * step for step in spec.horizon.tolist()], kind)
    tokens: Units = requests.tokens.astype(kind)
    return tokens[:, None] * per_token + steps


def _halves(spec: DecodeAllocation, requests: Active | Waiting, kind: np.dtype[Any]) -> Units:
    """(requests × horizon) 2 while a request is there, 1 between the predictions of a pair, 0 after."""
    return (2 * lasting(requests, spec.horizon)).astype(np.int64).astype(kind)


def _scaled(saved: Floats, per_token: int, kind: np.dtype[Any]) -> Units:
    if (np.floor(saved) == saved).all():
        return saved.astype(np.int64).astype(kind) * per_token
    return np.array([int(exact(value) * per_token) for value in saved.tolist()], kind)
