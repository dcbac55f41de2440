"""One rank of several that find the prices of all their tokens; a program of its own, run by `test_prices.py`.

It finds them once more in compiled graphs, as does a router, and fails where these are others.

python price_ranks.py RANK RANKS MEETING_FILE CASES_FILE RESULT_FILE
"""

from __future__ import annotations

import copy
import sys
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from equipoise.kernels.router import BalancedRouter
from equipoise.kernels.routing import interior_prices, quantile_prices

COMPILED = 3  # cases; a compilation takes a second


def prices(case: dict[str, Any], group: Any) -> list[torch.Tensor]:
    """By every method, of one rank's part of a case."""
    given = case["scores"], case["k"], case["capacity"], case["prices"]
    return [
        *(quantile_prices(*given, 3, case["valid"], clip=clip, group=group) for clip in (True, False)),
        interior_prices(*given, 3, case["valid"], group=group),
    ]


def compare_routers(rank: int, group: Any) -> None:
    """Of a router whose ranks share their state, three steps of training, as it is and compiled."""
    for balance in ("loss_free", "quantile", "capped"):
        torch.manual_seed(0)
        plain = BalancedRouter(8, 6, 2, balance=balance)
        other = copy.deepcopy(plain)
        plain.group = other.group = group
        compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
        x = torch.randn(40, 8, generator=torch.Generator().manual_seed(rank))
        for _ in range(3):
            for one, same in zip(plain(x), compiled(x), strict=True):
                assert torch.equal(one, same), balance
            assert torch.equal(plain.prices, other.prices), balance


def main(rank: int, ranks: int, meeting: str, cases: str, result: str) -> None:
    """Take this rank's tokens of each case, find the prices together, and write them down."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    found, group = [], distributed.group.WORLD
    for number, case in enumerate(torch.load(cases)):
        cut = slice(case["cuts"][rank], case["cuts"][rank + 1])
        flags = case["valid"] if case["valid"] is None else case["valid"][cut]
        part = {**case, "scores": case["scores"][cut], "valid": flags}
        found.append(prices(part, group))
        if number < COMPILED:
            torch.compiler.reset()
            compiled = torch.compile(prices, fullgraph=True, backend="aot_eager")
            for one, same in zip(found[-1], compiled(part, group), strict=True):
                assert torch.equal(one, same), number
    torch.compiler.reset()
    compare_routers(rank, group)
    torch.save(found, result)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
