"""One rank of several that find the prices of all their tokens; a program of its own, run by `test_prices.py`.

python price_ranks.py RANK RANKS MEETING_FILE CASES_FILE RESULT_FILE
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from equipoise.kernels.routing import interior_prices, quantile_prices


def prices(case: dict[str, Any], group: Any) -> list[torch.Tensor]:
    """By every method, of one rank's part of a case."""
    given = case["scores"], case["k"], case["capacity"], case["prices"]
    return [
        *(quantile_prices(*given, 3, case["valid"], clip=clip, group=group) for clip in (True, False)),
        interior_prices(*given, 3, case["valid"], group=group),
    ]


def main(rank: int, ranks: int, meeting: str, cases: str, result: str) -> None:
    """Take this rank's tokens of each case, find the prices together, and write them down."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    found = []
    for case in torch.load(cases):
        cut = slice(case["cuts"][rank], case["cuts"][rank + 1])
        flags = case["valid"] if case["valid"] is None else case["valid"][cut]
        found.append(prices({**case, "scores": case["scores"][cut], "valid": flags}, distributed.group.WORLD))
    torch.save(found, result)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
