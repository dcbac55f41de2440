"""The rules of today's routers and of the literature over plain arrays, by name, each in machine code.

A maker gives a rule of its own to each run, since some keep something between steps: whose turn it is, or where a
random number generator stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from ..program import Integers
from . import decode_margins, decode_queues
from .decode_snapshot import Rule, Snapshot

CACHES_FULL = 0.8
"""Share of the KV caches that the rule of vLLM takes to be full on average, where no capacity is known."""
BF_IO_DISCOUNT, BF_IO_PENALTY, BF_IO_FEW = 0.86, 43.0, 7
BALANCE_ROUTE_DISCOUNT, BALANCE_ROUTE_STEPS, BALANCE_ROUTE_FEW = 0.86, 80, 4


def queue_rule(kind: int) -> Callable[[int], Rule]:
    """A rule of `decode_queues.serve`, which admits in the order of the queue."""

    def make(seed: int) -> Rule:
        memory = np.array([0, seed])

        def rule(step: Snapshot) -> Integers:
            placed = np.empty(len(step.waiting_tokens), np.int64)
            decode_queues.serve(
                kind, step.slots, step.worker, step.tokens, step.waiting_tokens, CACHES_FULL, memory, placed
            )
            return placed

        return rule

    return make


def longest_first(seed: int) -> Rule:
    """The oldest that fit, the longest first to the lightest worker, then swaps off the heaviest."""

    def rule(step: Snapshot) -> Integers:
        placed = np.empty(len(step.waiting_tokens), np.int64)
        decode_queues.longest_first(step.slots, step.worker, step.tokens, step.waiting_tokens, placed)
        return placed

    return rule


def bf_io(steps: int) -> Callable[[int], Rule]:
    """BF-IO over the steps 0…H ahead."""
    weight = BF_IO_DISCOUNT ** np.arange(steps + 1.0)
    return lambda seed: _filling(weight, lambda workers: BF_IO_PENALTY, BF_IO_FEW, 0)


def balance_route(steps: int) -> Callable[[int], Rule]:
    """BalanceRoute over the steps 0…H ahead; 0 is the rule without lookahead.

    The published rule leaves the three weights of its lookahead to tuning: here the reach is 1, the penalty the
    number of workers, as without lookahead, and the discount that of BF-IO.
    """
    weight = BALANCE_ROUTE_DISCOUNT ** np.arange(steps + 1.0)
    return lambda seed: _filling(weight, float, BALANCE_ROUTE_FEW, decode_margins.WINDOW)


def _filling(weight: np.ndarray, penalty: Callable[[int], float], few: int, window: int) -> Rule:
    def rule(step: Snapshot) -> Integers:
        placed = np.empty(len(step.waiting_tokens), np.int64)
        remaining, lasting = step.lasting()
        decode_margins.fill(
            step.slots, step.worker, step.tokens, remaining, step.waiting_tokens, lasting,
            weight, 1.0, penalty(len(step.slots)), few, window, placed,
        )  # fmt: skip
        return placed

    return rule


RULES: Mapping[str, Callable[[int], Rule]] = MappingProxyType(
    {
        "FCFS": queue_rule(decode_queues.MOST_ROOM),
        "round robin": queue_rule(decode_queues.FEWEST_IN_TURN),
        "JSQ by count": queue_rule(decode_queues.FEWEST_REQUESTS),
        "JSQ by tokens": queue_rule(decode_queues.FEWEST_TOKENS),
        "power of two": queue_rule(decode_queues.TWO_CHOICES),
        "vLLM": queue_rule(decode_queues.VLLM),
        "SGLang": queue_rule(decode_queues.SGLANG),
        "longest first + swaps": longest_first,
        "BF-IO H=0": bf_io(0),
        "BF-IO H=20": bf_io(20),
        "BF-IO H=64": bf_io(64),
        "BalanceRoute": balance_route(0),
        f"BalanceRoute H={BALANCE_ROUTE_STEPS}": balance_route(BALANCE_ROUTE_STEPS),
    }
)
"""Name → maker: a seed → a rule."""
