"""Rules that admit in the order of the queue: by turns, by counts, by tokens, and the longest first with swaps.

Machine code over plain arrays, so that the time of a decision can be compared with ours. Every function fills
`placed`, (waiting,) the worker of each request or −1, and admits as many as there are free slots. Sources: the load
balancers of vLLM and SGLang for the two rules named after them, TensorRT-LLM for the longest first.
"""

from __future__ import annotations

import numpy as np

from ..machine import compiled, integer, integers, none, out_integers, real
from ..program import Integers

FEWEST_IN_TURN, FEWEST_REQUESTS, FEWEST_TOKENS, MOST_ROOM, TWO_CHOICES, VLLM, SGLANG = range(7)
"""The rules of `serve`."""


@compiled(none(integers, integers, integers, out_integers, out_integers))
def occupy(slots: Integers, worker: Integers, tokens: Integers, held: Integers, load: Integers) -> None:
    """Counts requests and tokens on each worker."""
    held[:] = 0
    load[:] = 0
    for row in range(len(worker)):
        held[worker[row]] += 1
        load[worker[row]] += tokens[row]


@compiled(real(integer, integer, integer, real, integer))
def vllm_score(inflight: int, waiting: int, running: int, memory: float, clients: int) -> float:
    """max(clients·inflight, waiting + running) + 6·waiting·max(0, memory − ½), the smaller the better."""
    return max(float(clients * inflight), float(waiting + running)) + 6.0 * waiting * max(0.0, memory - 0.5)


@compiled(integer(integers, integers, integers, out_integers))
def draw(slots: Integers, held: Integers, load: Integers, memory: Integers) -> int:
    """Of two random workers with a free slot, the one with fewer tokens; −1 if there is none.

    memory[1] is the state of the generator, linear congruential with Knuth's constants for 64 bits.
    """
    free = 0
    for at in range(len(slots)):
        free += held[at] < slots[at]
    if free == 0:
        return -1
    best = -1
    for _ in range(2):
        memory[1] = memory[1] * 6364136223846793005 + 1442695040888963407
        nth = ((memory[1] >> 33) & 0x3FFFFFFF) % free
        for at in range(len(slots)):
            if held[at] < slots[at]:
                if nth == 0:
                    if best < 0 or load[at] < load[best]:
                        best = at
                    break
                nth -= 1
    return best


@compiled(none(integer, integers, integers, integers, integers, real, out_integers, out_integers))
def serve(
    rule: int,
    slots: Integers,
    worker: Integers,
    tokens: Integers,
    waiting: Integers,
    full: float,
    memory: Integers,
    placed: Integers,
) -> None:
    """The oldest goes to the best worker with a free slot, again and again.

    full: share of the KV caches that is taken on average, for the rule of vLLM. memory: what the rule keeps between
    steps: the worker whose turn it is, and the state of a random number generator.
    """
    workers = len(slots)
    held, load = np.empty(workers, np.int64), np.empty(workers, np.int64)
    occupy(slots, worker, tokens, held, load)
    running, total = held.copy(), 0
    for at in range(workers):
        total += load[at]
    usage = full * workers / total if total > 0 else 0.0
    placed[:] = -1
    for request in range(len(waiting)):
        best, best_score, best_second = -1, np.inf, np.inf
        if rule == TWO_CHOICES:
            best = draw(slots, held, load, memory)
        for step in range(workers):
            at = (memory[0] + step) % workers if rule == FEWEST_IN_TURN else step
            if held[at] >= slots[at]:
                continue
            score, second = 0.0, 0.0
            if rule == TWO_CHOICES:
                break
            if rule == FEWEST_REQUESTS:
                score = float(held[at])
            elif rule == FEWEST_TOKENS:
                score = float(load[at])
            elif rule == MOST_ROOM:
                score, second = float(held[at] - slots[at]), float(load[at])
            elif rule == SGLANG:
                score, second = float(load[at]), float(held[at])
            elif rule == VLLM:
                sent = held[at] - running[at]
                score = vllm_score(sent, sent, running[at], usage * load[at], 1)
            if score < best_score or (score == best_score and second < best_second):
                best, best_score, best_second = at, score, second
        if best < 0:
            return
        if rule == FEWEST_IN_TURN:
            memory[0] = (best + 1) % workers
        placed[request] = best
        held[best] += 1
        load[best] += waiting[request]


@compiled(none(integers, integers, integers, integers, out_integers))
def longest_first(slots: Integers, worker: Integers, tokens: Integers, waiting: Integers, placed: Integers) -> None:
    """The oldest that fit, the longest of them first to the lightest worker with a slot; then swaps.

    A swap exchanges a request just admitted to the heaviest worker for a shorter one just admitted to another, or for
    a free slot; the one that leaves the two workers lowest is taken, as long as that is lower than before.
    """
    workers = len(slots)
    held, load = np.empty(workers, np.int64), np.empty(workers, np.int64)
    occupy(slots, worker, tokens, held, load)
    free = 0
    for at in range(workers):
        free += max(slots[at] - held[at], 0)
    number = min(free, len(waiting))
    placed[:] = -1
    for request in np.argsort(-waiting[:number], kind="mergesort"):
        best = -1
        for at in range(workers):
            if held[at] < slots[at] and (best < 0 or load[at] < load[best]):
                best = at
        placed[request] = best
        held[best] += 1
        load[best] += waiting[request]
    while number > 0:
        heaviest = 0
        for at in range(1, workers):
            if load[at] > load[heaviest]:
                heaviest = at
        lowest, mine, other, target = load[heaviest], -1, -1, -1
        for request in range(number):
            if placed[request] != heaviest:
                continue
            for rival in range(number):
                at, less = placed[rival], waiting[request] - waiting[rival]
                if at != heaviest and less > 0:
                    after = max(load[heaviest] - less, load[at] + less)
                    if after < lowest:
                        lowest, mine, other, target = after, request, rival, at
            for at in range(workers):
                if held[at] < slots[at]:
                    after = max(load[heaviest] - waiting[request], load[at] + waiting[request])
                    if after < lowest:
                        lowest, mine, other, target = after, request, -1, at
        if mine < 0:
            return
        placed[mine] = target
        less = waiting[mine]
        if other >= 0:
            placed[other] = heaviest
            less -= waiting[other]
        else:
            held[target] += 1
            held[heaviest] -= 1
        load[heaviest] -= less
        load[target] += less
