"""How even prices make the loads, and how near capped routes come to the optimum: BIP, Quantile Balancing, interior.

    python benchmarks/routing_quality.py [--tables violation gap] [--seeds 3] [--room 1.0]

Scores are sigmoid(N(0,1) + skew·N(0,1) per expert), from a cold start. violation: max load / mean load − 1 of plain
top-k at the prices of T rounds. gap: what `capped_route` at these prices lacks of the exact optimum, after 2 rounds and
by default, and what its own bound exceeds the optimum by; capacity is room·tokens·k / experts. Means over the seeds,
from 0; of places that stayed empty, the sum.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import mean

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import equipoise as eq
from equipoise.kernels.routing import capped_route, interior_prices, quantile_prices, topk_route

VIOLATION = ((4096, 16, 4, 1.0), (8192, 64, 8, 3.0), (16384, 256, 8, 3.0), (8192, 384, 8, 3.0))
GAP = tuple((*size, skew) for size in ((1024, 16, 4), (4096, 64, 8)) for skew in (0.0, 1.0, 3.0))
METHODS: dict[str, Callable[[Tensor, int, int, int], Tensor]] = {
    "BIP": lambda scores, k, capacity, rounds: quantile_prices(scores, k, capacity, iterations=rounds),
    "quantile": lambda scores, k, capacity, rounds: quantile_prices(scores, k, capacity, iterations=rounds, clip=False),
    "interior": lambda scores, k, capacity, rounds: interior_prices(scores, k, capacity, iterations=rounds),
}


def cold(tokens: int, experts: int, skew: float, seed: int) -> Tensor:
    """Scores of a router with popular experts."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, experts, generator=random) + skew * torch.randn(experts, generator=random)
    return logits.sigmoid()


def uneven(scores: Tensor, prices: Tensor, k: int) -> float:
    """Max load / mean load − 1 of top-k at these prices."""
    load = torch.bincount(topk_route(scores, prices, k).flatten(), minlength=scores.shape[1])
    return (load.max() / load.double().mean()).item() - 1


def violations(seeds: int) -> Table:
    """A row per size, a column per method."""
    rounds = (1, 4, 14, 64)
    table = Table(title=f"max load / mean load − 1, cold, T = {' / '.join(map(str, rounds))}, {seeds} seeds")
    for column in ("tokens, experts, k, skew", "top-k", *METHODS):
        table.add_column(column, justify="right")
    for tokens, experts, k, skew in track(VIOLATION, "violation", console=Console(stderr=True)):
        found: dict[tuple[str, int], list[float]] = {}
        for seed in range(seeds):
            scores = cold(tokens, experts, skew, seed)
            found.setdefault(("", 0), []).append(uneven(scores, torch.zeros(experts), k))
            for name, method in METHODS.items():
                for count in rounds:
                    prices = method(scores, k, -(-tokens * k // experts), count)
                    found.setdefault((name, count), []).append(uneven(scores, prices, k))
        cells = [" / ".join(f"{mean(found[name, count]):.3f}" for count in rounds) for name in METHODS]
        table.add_row(f"{tokens}, {experts}, {k}, {skew:g}", f"{mean(found['', 0]):.2f}", *cells)
    return table


def gaps(seeds: int, room: float) -> Table:
    """A row per size, method and number of rounds."""
    table = Table(title=f"capped routes, capacity {room:g} × tokens·k/experts, {seeds} seeds")
    for column in (
        "tokens, experts, k, skew",
        "prices",
        "gap, 2 rounds",
        "gap",
        "bound's excess",
        "empty, 2 rounds / default",
    ):
        table.add_column(column, justify="right")
    for tokens, experts, k, skew in track(GAP, "gap", console=Console(stderr=True)):
        capacity = int(room * tokens * k / experts)
        drawn = [cold(tokens, experts, skew, seed) for seed in range(seeds)]
        optima = [
            eq.solve(
                eq.ExpertAssignment(scores=scores.double().numpy(), experts_per_token=k, capacity=capacity), "exact"
            ).certificate.objective
            for scores in drawn
        ]
        for name, count in [(name, count) for name in METHODS for count in (4, 8, 16)]:
            lacks: tuple[list[float], list[float]] = [], []
            excess, empty = [], [0, 0]
            for scores, optimum in zip(drawn, optima, strict=True):
                prices = METHODS[name](scores, k, capacity, count)
                for index, rounds in enumerate((2, None)):
                    route = capped_route(scores, prices, k, capacity, rounds=rounds)
                    if route.load.max() > capacity:
                        raise SystemExit("a capacity is broken")
                    lacks[index].append(1 - route.objective.item() / optimum)
                    empty[index] += int(route.unfilled)
                    if rounds is None:
                        excess.append(route.bound.item() / optimum - 1)
            size = f"{tokens}, {experts}, {k}, {skew:g}"
            figures = [f"{mean(values):.1e}" for values in (*lacks, excess)]
            table.add_row(size, f"{name}, T={count}", *figures, f"{empty[0]} / {empty[1]}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=["violation", "gap"], default=["violation", "gap"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--room", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    if "violation" in options.tables:
        console.print(violations(options.seeds))
    if "gap" in options.tables:
        console.print(gaps(options.seeds, options.room))


if __name__ == "__main__":
    main()
