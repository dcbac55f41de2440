"""Operators beside the plain torch composition that they replace: times and ratios, measured in one run.

    python benchmarks/kernel_speed.py [--device cpu] [--groups routing] [--sizes 4096x64 16384x256] [--repeats 9]

Both sides of a row run in turn, on the same tensors, and medians are told, of the ratios too; on the CPU by the clock,
with `--threads`, on CUDA by events, with `--graphs` of CUDA graphs, which have no Python between the kernels. Where the
plain composition does less, the row says so. Scores are sigmoid(N(0,1) + N(0,1) per expert), k 8, capacity
tokens·k / experts.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from equipoise.kernels import choice
from equipoise.kernels.decode import admit, project_loads
from equipoise.kernels.groups import draw_by_budget, group_advantages, repeat_by_budget
from equipoise.kernels.permutation import combine, dispatch
from equipoise.kernels.routing import capped_route, digit_histogram, interior_prices, quantile_prices, topk_route

CHOSEN = 8
WIDTH = 512


@dataclass
class Row:
    """An operator and what is commonly composed instead.

    moved: bytes that ours and plain must read and write; where given, the rate of ours is told as a share of plain's.
    """

    operator: str
    ours: Callable[[], Any]
    plain: Callable[[], Any]
    note: str = ""
    moved: tuple[int, int] = (0, 0)


def cold(tokens: int, experts: int, device: torch.device, seed: int = 0) -> Tensor:
    """Scores of a router with popular experts."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, experts, generator=random) + torch.randn(experts, generator=random)
    return logits.sigmoid().to(device)


def routing(tokens: int, experts: int, device: torch.device) -> Iterator[Row]:
    """Top-k by prices, prices, and capped routes."""
    scores, capacity = cold(tokens, experts, device), -(-tokens * CHOSEN // experts)
    prices = interior_prices(scores, CHOSEN, capacity, iterations=8)

    def plain_round(prices: Tensor, floor: bool) -> Tensor:
        of_token = (scores - prices).topk(CHOSEN + 1, dim=1).values[:, -1:]
        found = (scores - (of_token.clamp(min=0) if floor else of_token)).topk(capacity + 1, dim=0).values[-1]
        return found.clamp(min=0) if floor else found - found.min()

    def dropped() -> Tensor:
        chosen = (scores - prices).topk(CHOSEN, dim=1).indices
        taken = torch.zeros_like(scores, dtype=torch.int32).scatter_(1, chosen, 1)
        place = taken.cumsum(0).gather(1, chosen)
        return chosen.masked_fill(place > capacity, -1)

    def counted() -> Tensor:
        digits = keys >> 21
        flat = (digits + 1024).long() + torch.arange(experts, device=device) * 2048
        return torch.bincount(flat.flatten(), minlength=experts * 2048)

    keys = torch.randint(-(2**31), 2**31, scores.shape, generator=torch.Generator().manual_seed(1)).int().to(device)
    prefix = torch.zeros(experts, dtype=torch.int32, device=device)
    yield Row(
        "topk_route",
        lambda: topk_route(scores, prices, CHOSEN),
        lambda: (scores - prices).topk(CHOSEN, dim=1).indices,
        "plain: ties as they fall",
    )
    for clip in (True, False):
        yield Row(
            f"quantile_prices, {'BIP' if clip else 'quantile'}, 1 round",
            lambda clip=clip: quantile_prices(scores, CHOSEN, capacity, prices, clip=clip),
            lambda clip=clip: plain_round(prices, clip),
            "plain: topk over rows and over columns",
        )
    yield Row(
        "interior_prices, 1 round",
        lambda: interior_prices(scores, CHOSEN, capacity, prices, iterations=1),
        lambda: plain_round(prices, False),
        "plain: quantile round",
    )
    yield Row("digit_histogram, 11 bits", lambda: digit_histogram(keys, prefix, 21, 11), counted, "plain: bincount")
    for rounds in (2, 16):
        yield Row(
            f"capped_route, good prices, {rounds} rounds",
            lambda rounds=rounds: capped_route(scores, prices, CHOSEN, capacity, rounds=rounds),
            dropped,
            "plain: top-k, late tokens dropped",
        )
    yield Row(
        "capped_route, prices 0, 16 rounds",
        lambda: capped_route(scores, torch.zeros_like(prices), CHOSEN, capacity, rounds=16),
        dropped,
        "plain: the same, at good prices",
    )


def permutation(tokens: int, experts: int, device: torch.device) -> Iterator[Row]:
    """To the experts and back: float32 rows of WIDTH, on CUDA bfloat16 rows of eight times that; every slot filled."""
    random = torch.Generator().manual_seed(0)
    wide = device.type == "cuda"
    x = torch.randn(tokens, 8 * WIDTH if wide else WIDTH, generator=random)
    weights = torch.rand(tokens, CHOSEN, generator=random)
    x = x.to(device, torch.bfloat16 if wide else torch.float32).requires_grad_()
    weights = weights.to(device, x.dtype).requires_grad_()
    chosen, up = cold(tokens, experts, device).topk(CHOSEN, dim=1).indices, torch.ones_like(x)
    sent = dispatch(x.detach(), chosen, experts)
    slots = torch.arange(chosen.numel(), device=device)

    def sorted_rows(x: Tensor) -> tuple[Tensor, Tensor]:
        order = chosen.flatten().argsort(stable=True)
        return x[order // CHOSEN], torch.empty_like(order).scatter_(0, order, slots).view_as(chosen)

    def summed(rows: Tensor, place: Tensor) -> Tensor:
        return (rows[place] * weights[:, :, None]).sum(dim=1)

    def ours() -> Any:
        sent = dispatch(x, chosen, experts)
        return torch.autograd.grad(combine(sent.rows, sent.place, weights), (x, weights), up)

    name = "dispatch, combine, backward"
    with torch.no_grad():
        yield Row("dispatch", lambda: dispatch(x, chosen, experts), lambda: sorted_rows(x), "plain: sort, index")
        moved = (sent.rows.nbytes + x.nbytes, 2 * sent.rows.nbytes)
        for operator, work in (
            ("dispatch", lambda: dispatch(x, chosen, experts)),
            ("combine", lambda: combine(sent.rows, sent.place, weights)),
        ):
            yield Row(operator, work, lambda: sent.rows.clone(), "plain: a copy of the rows", moved)
        yield Row(
            "combine",
            lambda: combine(sent.rows, sent.place, weights),
            lambda: summed(sent.rows, sent.place),
            "plain: index, multiply, sum",
        )
    yield Row(
        name, ours, lambda: torch.autograd.grad(summed(*sorted_rows(x)), (x, weights), up), "plain: autograd's own"
    )


def batches(samples: int, groups: int, device: torch.device) -> Iterator[Row]:
    """Budgets and decode: samples of prompts, 8 each on average; rows drawn from groups; requests on workers."""
    random = torch.Generator().manual_seed(0)
    prompts = samples // CHOSEN
    counts = torch.bincount(torch.randint(prompts, (samples,), generator=random), minlength=prompts).to(device)
    values, rewards = torch.randn(prompts, WIDTH, generator=random), torch.rand(samples, generator=random).round()
    values, rewards, up = (
        values.to(device).requires_grad_(),
        rewards.to(device),
        torch.ones(samples, WIDTH, device=device),
    )
    prompt = repeat_by_budget(values, counts, samples).prompt

    def mean(values: Tensor) -> Tensor:
        number = torch.zeros(prompts, device=device).index_add_(0, prompt, torch.ones_like(values))
        return (torch.zeros(prompts, device=device).index_add_(0, prompt, values) / number)[prompt]

    def scaled() -> Tensor:
        above = rewards - mean(rewards)
        return above / (mean(above.square()).sqrt() + 1e-6)

    yield Row(
        "repeat_by_budget, backward",
        lambda: torch.autograd.grad(repeat_by_budget(values, counts, samples).values, values, up),
        lambda: torch.autograd.grad(values.repeat_interleave(counts, dim=0), values, up),
        "plain: repeat_interleave, waits for a device",
    )
    yield Row(
        "group_advantages",
        lambda: group_advantages(rewards, prompt, prompts),
        scaled,
        "plain: index_add in float32, without the cases",
    )
    for size, share in ((1000, 4), (100_000, 1000)):
        sizes, number = torch.full((groups,), size, device=device), size // share

        def shuffled(size: int = size, number: int = number) -> Tensor:
            return torch.cat([group * size + torch.randperm(size, device=device)[:number] for group in range(groups)])

        yield Row(
            f"draw_by_budget, {number:,} of {size:,} each",
            lambda sizes=sizes, share=share, number=number: draw_by_budget(sizes, sizes // share, groups * number, 1),
            shuffled,
            "plain: randperm per group, sizes known",
        )
    worker = torch.randint(-1, groups, (samples,), generator=random).to(device)
    tokens, remaining = (torch.randint(1, 8000, (samples,), generator=random).to(device) for _ in range(2))
    horizon = torch.tensor([0, 4, 16, 64, 256, 1024], device=device)
    slots = torch.randint(-9, 1, (groups, 64), generator=random).clamp_min(-1).neg().to(device) - 1
    requests = worker[: 4 * groups]

    def added() -> Tensor:
        load = (tokens[:, None] + horizon).double() * (remaining[:, None] > horizon) * (worker >= 0)[:, None]
        return torch.zeros(groups, len(horizon), dtype=load.dtype, device=device).index_add_(
            0, worker.clamp_min(0), load
        )

    def filled() -> Tensor:
        after = slots.clone()
        for worker in range(groups):
            free, new = (after[worker] < 0).nonzero()[:, 0], (requests == worker).nonzero()[:, 0]
            after[worker, free[: len(new)]] = new[: len(free)]
        return after

    numbers = torch.arange(len(requests), device=device)
    yield Row(
        "project_loads", lambda: project_loads(worker, tokens, remaining, horizon, groups), added, "plain: index_add"
    )
    yield Row("admit", lambda: admit(slots, numbers, requests), filled, "plain: a loop over workers")


GROUPS: dict[str, Callable[[int, int, torch.device], Iterator[Row]]] = {
    "routing": routing,
    "permutation": permutation,
    "batches": batches,
}


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long one call takes, its kernels included."""
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) / 1e3
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def replayed(work: Callable[[], Any]) -> Callable[[], Any]:
    """The same kernels as a CUDA graph, without Python between them."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def measured(row: Row, device: torch.device, repeats: int) -> tuple[float, float, float]:
    """Median seconds of ours and of the plain composition, run in turn after a warm-up of each, and median ratio."""
    times: tuple[list[float], list[float]] = [], []
    for repeat in range(repeats + 2):
        for taken, work in zip(times, (row.ours, row.plain), strict=True):
            spent = seconds(work, device)
            if repeat >= 2:
                taken.append(spent)
    ratios = [plain / ours for ours, plain in zip(*times, strict=True)]
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios)


def main() -> None:
    """Print a table per group and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--sizes", nargs="+", default=["4096x64", "16384x256"], metavar="TOKENSxEXPERTS")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--graphs", action="store_true", help="on CUDA: replay both sides, which must not wait")
    options = parser.parse_args()
    if options.graphs and options.device.type != "cuda":
        parser.error("--graphs: takes --device cuda")
    torch.set_num_threads(options.threads)
    console, device = Console(width=120), options.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{options.threads} CPU threads"
    kernels = "Triton" if choice.uses_triton(torch.empty(0, device=device)) else "torch"
    for group in options.groups:
        for size in options.sizes:
            tokens, experts = map(int, size.split("x"))
            table = Table(
                title=f"{group}, {tokens} × {experts}, k {CHOSEN}",
                caption=f"{kernels} kernels, {where}, medians of {options.repeats}; "
                f"Python {platform.python_version()}, torch {torch.__version__}",
            )
            table.add_column("operator")
            for column in ("ms", "plain, ms", "ours is faster by"):
                table.add_column(column, justify="right")
            table.add_column("")
            for row in GROUPS[group](tokens, experts, device):
                if options.graphs:
                    row.ours, row.plain = replayed(row.ours), replayed(row.plain)
                ours, plain, ratio = measured(row, device, options.repeats)
                share = f", {ratio * row.moved[0] / row.moved[1]:.0%} of its bandwidth" if any(row.moved) else ""
                times = (f"{1e3 * ours:.3f}", f"{1e3 * plain:.3f}", f"{ratio:.2f}×")
                table.add_row(row.operator, *times, row.note + share)
            console.print(table)


if __name__ == "__main__":
    main()
