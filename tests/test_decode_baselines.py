"""The peers' rules of decode allocation: on states made by hand, by their formulas read slowly, and as baselines."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.baselines import decode_margins, decode_queues
from equipoise.solvers.baselines.decode_allocation import BASELINES, snapshot
from equipoise.solvers.baselines.decode_rules import RULES
from equipoise.solvers.baselines.decode_snapshot import Snapshot


def state(slots: list[int], active: list[tuple[int, int, int]], waiting: list[tuple[int, int]]) -> Snapshot:
    """active: (worker, tokens, remaining) each; waiting: (tokens, remaining) each."""
    here = np.array(active, np.int64).reshape(-1, 3).T.copy()
    queue = np.array(waiting, np.int64).reshape(-1, 2).T.copy()
    return Snapshot(np.array(slots), here[0], here[1], here[2], queue[0], queue[1], np.zeros_like(queue[0]))


def random_state(seed: int) -> Snapshot:
    """Sizes far apart, so that few totals are equal."""
    random = np.random.default_rng(seed)
    workers, slots = int(random.integers(1, 5)), int(random.integers(2, 6))
    everywhere = random.permutation(np.repeat(np.arange(workers), slots))
    active = everywhere[: random.integers(0, len(everywhere) + 1)]
    waiting = int(random.integers(0, 9))
    return Snapshot(
        np.full(workers, slots),
        active,
        random.integers(1, 100_000, len(active)),
        random.integers(1, 30, len(active)),
        random.integers(1, 100_000, waiting),
        random.integers(1, 30, waiting),
        np.zeros(waiting, np.int64),
    )


def choose(name: str, step: Snapshot) -> list[int]:
    return RULES[name](0)(step).tolist()


SMALL = state([2, 2, 2], [(0, 50, 9), (1, 10, 9), (1, 10, 9), (2, 30, 9)], [(5, 9), (40, 9), (1, 9)])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FCFS", [2, 0, -1]),  # one slot each on 0 and 2: the lighter first
        ("round robin", [0, 2, -1]),
        ("JSQ by count", [0, 2, -1]),
        ("JSQ by tokens", [2, 0, -1]),
        ("SGLang", [2, 0, -1]),
        ("vLLM", [0, 2, -1]),
        ("longest first + swaps", [0, 2, -1]),  # 40 to the lighter worker 2
        ("BF-IO H=0", [2, -1, 0]),  # the lighter 2 has 20 to spare and takes 5; the heaviest takes the least, 1
        ("BalanceRoute", [2, -1, 0]),
    ],
)
def test_a_small_state(name: str, expected: list[int]) -> None:
    assert choose(name, SMALL) == expected


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(40))
def test_every_rule_fills_the_slots_and_no_more(name: str, seed: int) -> None:
    step = random_state(seed)
    placed = RULES[name](3)(step)
    free = step.slots - np.bincount(step.worker, minlength=len(step.slots))
    given = np.bincount(placed[placed >= 0], minlength=len(step.slots))
    assert (given <= free).all()
    assert given.sum() == min(free.sum(), len(placed))
    assert (RULES[name](3)(step) == placed).all()


@pytest.mark.parametrize(
    "name", ["FCFS", "round robin", "JSQ by tokens", "power of two", "vLLM", "longest first + swaps"]
)
def test_queues_admit_the_oldest(name: str) -> None:
    for seed in range(40):
        admitted = RULES[name](0)(random_state(seed)) >= 0
        assert (np.diff(admitted.astype(int)) <= 0).all()


def test_round_robin_goes_on_where_it_stopped() -> None:
    rule = RULES["round robin"](0)
    two = state([9, 9, 9], [], [(1, 1), (1, 1)])
    assert [rule(two).tolist() for _ in range(3)] == [[0, 1], [2, 0], [1, 2]]


def test_the_score_of_vllm() -> None:
    assert decode_queues.vllm_score(3, 3, 20, 0.4, 1) == 23  # room in the cache: requests alone
    assert decode_queues.vllm_score(3, 3, 20, 0.9, 1) == pytest.approx(23 + 6 * 3 * 0.4)
    assert decode_queues.vllm_score(8, 3, 20, 0.9, 4) == pytest.approx(32 + 6 * 3 * 0.4)


def test_vllm_avoids_a_worker_with_a_full_cache_and_requests_on_the_way() -> None:
    """Caches 80 % full on average, so 145 and 15 %: with one on the way, worker 0 scores 2 + 6·0.95, worker 1 two."""
    step = state([9, 9], [(0, 900, 9), (1, 50, 9), (1, 50, 9)], [(1, 9)] * 3)
    assert choose("vLLM", step) == [0, 1, 1]
    level = state([9, 9], [(0, 100, 9), (1, 50, 9), (1, 50, 9)], [(1, 9)] * 3)
    assert choose("vLLM", level) == [0, 1, 0]


def test_two_choices_seldom_fall_on_the_heaviest() -> None:
    """Both draws must name it: one in sixteen with four workers."""
    rule = RULES["power of two"](5)
    step = state([2000] * 4, [(0, 10**9, 9)], [(1, 9)] * 4000)
    share = (rule(step) == 0).mean()
    assert 1 / 16 - 0.02 < share < 1 / 16 + 0.02


def test_a_swap_levels_what_the_longest_first_left_uneven() -> None:
    """3 2 2 beside 3 2: one 3 goes for a 2, and both hold 6."""
    step = state([3, 2], [], [(3, 9), (3, 9), (2, 9), (2, 9), (2, 9)])
    placed = choose("longest first + swaps", step)
    load = np.bincount(placed, step.waiting_tokens)
    assert load.tolist() == [6, 6]


def test_swaps_never_make_it_heavier_than_the_longest_first() -> None:
    better = 0
    for seed in range(200):
        step = random_state(seed)
        fields = {"workers": {"slots": step.slots}, "active": {"worker": step.worker, "tokens": step.tokens}}
        spec = eq.DecodeAllocation(**fields, waiting={"tokens": step.waiting_tokens}, horizon=[0])
        plain, swapped = (BASELINES[name](spec).step_time[0] for name in ("longest first", "longest first + swaps"))
        assert swapped <= plain
        better += swapped < plain
    assert better > 10


def test_f_of_bf_io_on_a_worked_example() -> None:
    """S = 80 at margins 100 and 60: 80·(1 + 0.86) − 43·0.86·20 = −590.8; at S = 60 nothing is too much: 111.6."""
    margin, weight = np.array([100, 60]), np.array([1.0, 0.86])
    assert decode_margins.worth(80, margin, weight, 1.0, 43.0) == pytest.approx(-590.8)
    assert decode_margins.worth(60, margin, weight, 1.0, 43.0) == pytest.approx(111.6)
    assert decode_margins.peak(margin, weight, 1.0, 43.0) == 60


def test_f_of_balance_route_is_s_up_to_the_margin_and_falls_with_the_number_of_workers_beyond() -> None:
    margin, weight = np.array([100]), np.array([1.0])
    assert decode_margins.worth(90, margin, weight, 1.0, 16.0) == 90
    assert decode_margins.worth(110, margin, weight, 1.0, 16.0) == 110 - 16 * 10


@pytest.mark.parametrize("seed", range(30))
def test_f_is_largest_at_its_peak(seed: int) -> None:
    random = np.random.default_rng(seed)
    margin, weight = random.integers(0, 300, random.integers(1, 70)), None
    weight = 0.86 ** np.arange(float(len(margin)))
    value = [decode_margins.worth(total, margin, weight, 1.0, 43.0) for total in range(400)]
    assert value[decode_margins.peak(margin, weight, 1.0, 43.0)] == pytest.approx(max(value))


def test_where_nothing_costs_more_than_it_brings_there_is_no_peak() -> None:
    assert decode_margins.peak(np.array([5]), np.ones(1), 1.0, 1.0) == decode_margins.NO_PEAK


@pytest.mark.parametrize("seed", range(150))
def test_subset_sums_are_exact(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = random.integers(0, int(random.choice([6, 200, 50_000])), random.integers(1, 11))
    order = np.argsort(size, kind="stable")
    count = int(random.integers(1, min(len(size), 6) + 1))
    sums = sorted(int(size[list(members)].sum()) for members in combinations(range(len(size)), count))
    target = int(random.choice(sums)) + int(random.integers(-3, 4)) * int(random.integers(0, 2))
    target = max(target, 0)
    below, above = np.empty(count, np.int64), np.empty(count, np.int64)
    decode_margins.nearest(size, order, count, target, below, above)
    under, over = [total for total in sums if total <= target], [total for total in sums if total > target]
    if below[0] >= 0:
        assert len(set(below.tolist())) == count
        assert size[below].sum() == under[-1]
    else:
        assert not under
    if above[0] >= 0:
        assert len(set(above.tolist())) == count
        assert size[above].sum() == over[0]
    else:
        assert not over or under[-1] == target


def test_subset_sums_of_huge_sizes_are_near() -> None:
    random = np.random.default_rng(4)
    size = random.integers(1, 10**12, 12)
    sums = sorted(int(size[list(members)].sum()) for members in combinations(range(12), 4))
    target = sums[len(sums) // 2]
    below, above = np.empty(4, np.int64), np.empty(4, np.int64)
    decode_margins.nearest(size, np.argsort(size), 4, target, below, above)
    unit = (target + size.max()) / decode_margins.LARGEST_TABLE
    for found in (below, above):
        assert len(set(found.tolist())) == 4
        assert min(abs(total - int(size[found].sum())) for total in sums) == 0
        assert abs(int(size[found].sum()) - target) < 8 * unit + max(np.diff(sums))


def slowly(step: Snapshot, weight: np.ndarray, penalty: float, few: int, window: int) -> list[int]:
    """BF-IO and BalanceRoute as their formulas read: every request, then every set, tried."""
    workers, horizon = len(step.slots), np.arange(len(weight))
    remaining, lasting = step.lasting()
    load = np.zeros((workers, len(weight)))
    np.add.at(load, step.worker, step.tokens[:, None] * (remaining[:, None] > horizon))
    free = step.slots - np.bincount(step.worker, minlength=workers)
    placed = [-1] * len(step.waiting_tokens)
    while (free > 0).any() and -1 in placed:
        worker = max(range(workers), key=lambda at: (free[at], -load[at, 0]))
        margin = load.max(axis=0) - load[worker]
        left = [request for request, at in enumerate(placed) if at < 0]
        number = 1
        if free.sum() <= few:
            left = left[:window] if window else left
            number = min(int(free[worker]), len(left))

        def value(members: tuple[int, ...], margin: Any = margin) -> float:
            total = step.waiting_tokens[list(members)].sum()
            return float(weight @ (total - penalty * np.maximum(total - margin, 0)))

        for request in max(combinations(left, number), key=value):
            placed[request] = worker
            load[worker] += step.waiting_tokens[request] * (lasting[request] > horizon)
            free[worker] -= 1
    return placed


@pytest.mark.parametrize("seed", range(120))
def test_bf_io_and_balance_route_do_what_their_formulas_say(seed: int) -> None:
    step = random_state(seed)
    for steps in (0, 20):
        weight = 0.86 ** np.arange(steps + 1.0)
        assert choose(f"BF-IO H={steps}", step) == slowly(step, weight, 43.0, 7, 0)
    workers = float(len(step.slots))
    if workers > 1:  # on one worker every total is as good as any other
        assert choose("BalanceRoute", step) == slowly(step, np.ones(1), workers, 4, 4)
        assert choose("BalanceRoute H=80", step) == slowly(step, 0.86 ** np.arange(81.0), workers, 4, 4)


def test_without_predictions_lookahead_sees_nobody_leave() -> None:
    step = random_state(8)
    blind = Snapshot(step.slots, step.worker, step.tokens, None, step.waiting_tokens, None, step.waited)
    assert choose("BF-IO H=20", blind) == choose("BF-IO H=0", blind)


def random_spec(seed: int) -> eq.DecodeAllocation:
    random, step = np.random.default_rng([seed, 9]), random_state(seed)
    workers: dict[str, Any] = {"slots": step.slots - random.integers(0, 2, len(step.slots))}
    if random.random() < 0.5:
        workers["kv_capacity"] = random.integers(50_000, 400_000, len(step.slots))
    remaining, lasting = step.lasting()
    pair = np.stack([lasting, lasting + 3], axis=1)
    return eq.DecodeAllocation(
        workers=workers,
        active={"worker": step.worker, "tokens": step.tokens, "remaining": remaining},
        waiting={
            "tokens": step.waiting_tokens,
            "remaining": pair,
            "priority": random.integers(0, 3, len(step.waiting_tokens)),
        },
    )


def test_as_baselines_they_keep_slots_and_memory() -> None:
    for seed in range(60):
        spec = random_spec(seed)
        for name, rule in BASELINES.items():
            broken = {fault.rule for fault in spec.rules(rule(spec))}
            assert broken <= {"max_bypass", "filled"}, (seed, name, broken)


def test_a_snapshot_of_a_spec_follows_the_queue() -> None:
    spec = eq.DecodeAllocation(
        workers={"slots": [2]},
        waiting={
            "tokens": [5, 6, 7],
            "remaining": [[1, 2], [3, 4], [5, 6]],
            "waited": [3, 2, 1],
            "priority": [0, 1, 0],
        },
    )
    seen = snapshot(spec)
    assert seen.waiting_tokens.tolist() == [6, 5, 7]
    assert seen.waited.tolist() == [2, 3, 1]
    assert seen.waiting_remaining is not None
    assert seen.waiting_remaining.tolist() == [3, 1, 5]


def test_the_machine_code_and_the_baseline_of_the_same_rule_agree() -> None:
    same = {
        "FCFS": "first come first served",
        "JSQ by tokens": "join shortest queue by tokens",
    }
    for seed in range(60):
        step = random_state(seed)
        spec = eq.DecodeAllocation(
            workers={"slots": step.slots},
            active={"worker": step.worker, "tokens": step.tokens},
            waiting={"tokens": step.waiting_tokens},
        )
        for name, other in same.items():
            assert choose(name, step) == BASELINES[other](spec).worker.tolist()
