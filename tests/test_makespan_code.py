"""The machine code of the makespan family: loads, moves, random exchanges, sums."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from equipoise.solvers.algorithms import decode_allocation as algorithm
from equipoise.solvers.algorithms import makespan_bound, makespan_loads
from equipoise.solvers.algorithms.decode_state import starts, survey

from .decode_tasks import random_spec, real_step

ALL = 2**62
"""More work than any search does."""


def test_projection_counts_each_request_until_it_leaves() -> None:
    random = np.random.default_rng(8)
    worker, tokens = random.integers(0, 5, 300), random.integers(0, 10_000, 300)
    for horizon in (np.array([0]), np.array([0, 4, 16, 64]), np.array([3, 2**40])):
        for width in (0, 1, 2):
            remaining = np.sort(random.integers(1, 100, (300, max(width, 1))), axis=1)
            load, held = np.empty((len(horizon), 5)), np.empty(5, np.int64)
            flat = remaining.reshape(-1) if width else np.zeros(0, np.int64)
            makespan_loads.project(worker, tokens, flat, width, horizon, 0.5, load, held)
            there = (remaining[:, :, None] > horizon).mean(axis=1) if width else np.ones((300, len(horizon)))
            share, size = np.empty((len(horizon), 300)), np.empty((len(horizon), 300))
            makespan_loads.measure(tokens, flat, width, horizon, 0.5, share, size)
            grown = there * (tokens[:, None] + 0.5 * horizon)
            for point in range(len(horizon)):
                expected = np.bincount(worker, weights=grown[:, point], minlength=5)
                np.testing.assert_allclose(load[point], expected, rtol=1e-12)
            np.testing.assert_allclose(share, there.T)
            np.testing.assert_allclose(size, grown.T)
            assert held.tolist() == np.bincount(worker, minlength=5).tolist()


def test_a_search_in_slices_ends_where_no_move_helps() -> None:
    """The work that is left is looked at between moves, so that a search can be stopped and go on."""
    step = survey(real_step(11, 16))
    choice, order = starts(step)[0]
    for work in (1, 2000):
        placement = algorithm.Placement(step)
        placement.search(choice, order)
        slices, costs = 0, [placement.cost]
        while not placement.search(choice, work=work):
            slices += 1
            costs.append(placement.cost)
        assert slices > 2
        assert all(later <= before * (1 + 1e-12) for before, later in pairwise(costs))
        end = placement.worker.copy()
        assert placement.search(choice, work=ALL)
        assert placement.worker.tolist() == end.tolist()


def test_sums_keep_their_last_digits() -> None:
    """An imbalance of nothing is a difference of large numbers."""
    load = np.full((3, 1), 2.0**52) + np.arange(3.0)[:, None]
    height = np.array([2.0**52 + 2])
    assert makespan_bound.objective(np.ones(1), np.ones(3), height, load, True) == 3.0


@pytest.mark.parametrize("seed", range(40))
def test_the_loads_that_a_search_carries_along_are_those_of_its_placement(seed: int) -> None:
    """Random steps with everything there is: memory, prefix caches, speeds, pairs, priorities."""
    step = survey(random_spec(seed))
    for choice, order in starts(step):
        placement = algorithm.Placement(step)
        placement.search(choice, order, ALL, rounds=30, shakes=10**6)
        load, slots = step.active.copy(), step.slots.copy()
        for request in np.flatnonzero(placement.worker >= 0):
            worker = placement.worker[request]
            saved = step.saved[worker, request] if step.saved.size else 0.0
            load[:, worker] += step.size[:, request] - saved * step.share[:, request]
            slots[worker] -= 1
        np.testing.assert_allclose(placement.load, load, rtol=1e-12, atol=1e-9)
        assert placement.slots.tolist() == slots.tolist()
        assert (slots >= 0).all()
        assert not (choice.barred & (placement.worker >= 0)).any() or step.memory is not None
        if step.memory is not None:
            new = np.flatnonzero(placement.worker >= 0)
            room = step.memory.room.copy()
            np.subtract.at(room, placement.worker[new], step.memory.needed(new, placement.worker[new]))
            assert placement.room.T.tolist() == room.tolist()
            assert (room >= 0).all()
