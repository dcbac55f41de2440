"""How many kernels an operator starts on a GPU, and that it never waits for one; told without a GPU.

    python benchmarks/kernel_launches.py [--size 16384x256] [--names capped_route]

The operators run on tensors that have shapes and no numbers (the meta device), so that they take the ways that they
take on a GPU, and whoever would look at a number fails. Counted are launches of Triton's kernels, and torch's operators
that compute or copy: views and allocations start nothing; some of torch's operators (sorts, running sums) start more
than one kernel, so that theirs is the least number.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode

from equipoise.kernels import choice
from equipoise.kernels.decode import admit, project_loads
from equipoise.kernels.groups import draw_by_budget, group_advantages, repeat_by_budget
from equipoise.kernels.permutation import combine, dispatch
from equipoise.kernels.router import Balance, BalancedRouter
from equipoise.kernels.routing import capped_route, digit_histogram, interior_prices, quantile_prices, topk_route

CHOSEN = 8
WIDTH = 4096


@dataclass
class Launches:
    """How often each of Triton's kernels was launched, and each of torch's operators ran, by name."""

    triton: Counter[str] = field(default_factory=Counter)
    torch: Counter[str] = field(default_factory=Counter)

    @property
    def all(self) -> int:
        """Of both together."""
        return self.triton.total() + self.torch.total()


class _Watch(TorchDispatchMode):
    """Looks into our operators and counts torch's."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if func.namespace == "equipoise":
            with self:
                return OPDEFS[name]._init_fn(*args, **(kwargs or {}))
        tensors = any("Tensor" in str(part.type) for part in (*func._schema.arguments, *func._schema.returns))
        view = any(made.alias_info is not None and not made.alias_info.is_write for made in func._schema.returns)
        if func.namespace == "aten" and tensors and not view and "empty" not in name and name != "aten::detach":
            self.seen[name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def counting(kernels: str = "triton") -> Iterator[Launches]:
    """Tensors made within have no numbers; what is launched for them is counted. kernels: torch, or triton."""
    from triton.runtime.jit import JITFunction

    seen = Launches()

    def launch(kernel: Any, *_: Any, **__: Any) -> None:
        seen.triton[kernel.__name__.lstrip("_")] += 1

    with (
        mock.patch.object(JITFunction, "run", launch),
        mock.patch.object(choice, "_interpreted", return_value=True),  # on a device that is no GPU
        mock.patch.object(torch, "autocast", return_value=contextlib.nullcontext()),  # which it knows nothing of
        mock.patch.dict(os.environ, {choice.VARIABLE: kernels}),
        torch.device("meta"),
        _Watch(seen.torch),
    ):
        yield seen


def operators(tokens: int, experts: int) -> dict[str, Callable[[], Callable[[], Any]]]:
    """By name, what makes the tensors of a call and returns the call."""

    def routing(call: Callable[[Tensor, Tensor, Tensor], Any]) -> Callable[[], Callable[[], Any]]:
        """Of scores, prices, and capacities that are there already."""

        def made() -> Callable[[], Any]:
            scores, prices = torch.empty(tokens, experts), torch.empty(experts)
            places = torch.empty(experts, dtype=torch.int64)
            return lambda: call(scores, prices, places)

        return made

    def whole(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int64)

    def permuted(backward: bool) -> Callable[[], Any]:
        x = torch.empty(tokens, WIDTH, dtype=torch.bfloat16, requires_grad=backward)
        weights, chosen = torch.empty(tokens, CHOSEN, dtype=torch.bfloat16), whole(tokens, CHOSEN)

        def there_and_back() -> Any:
            sent = dispatch(x, chosen, experts)
            made = combine(sent.rows, sent.place, weights)
            return torch.autograd.grad(made, x, torch.empty_like(made)) if backward else made

        return there_and_back

    def repeated() -> Callable[[], Any]:
        values, counts = torch.empty(tokens // CHOSEN, WIDTH), whole(tokens // CHOSEN)
        return lambda: repeat_by_budget(values, counts, tokens)

    def advantages() -> Callable[[], Any]:
        rewards, prompt = torch.empty(tokens), whole(tokens)
        return lambda: group_advantages(rewards, prompt, tokens // CHOSEN)

    def drawn() -> Callable[[], Any]:
        sizes, counts = whole(experts), whole(experts)
        return lambda: draw_by_budget(sizes, counts, tokens, 1)

    def projected() -> Callable[[], Any]:
        worker, held, left, horizon = whole(tokens), whole(tokens), whole(tokens), whole(6)
        return lambda: project_loads(worker, held, left, horizon, experts)

    def admitted() -> Callable[[], Any]:
        slots, waiting, worker = whole(experts, 64), whole(tokens), whole(tokens)
        return lambda: admit(slots, waiting, worker)

    def routed(balance: Balance, factor: float | None) -> Callable[[], Callable[[], Any]]:
        def made() -> Callable[[], Any]:
            router = BalancedRouter(WIDTH, experts, CHOSEN, balance=balance, capacity_factor=factor)
            x, valid = torch.empty(tokens, WIDTH, dtype=torch.bfloat16), torch.empty(tokens, dtype=torch.bool)
            return lambda: router(x, valid)

        return made

    calls: dict[str, Callable[[], Callable[[], Any]]] = {
        "topk_route": routing(lambda scores, prices, places: topk_route(scores, prices, CHOSEN)),
    }
    for rounds in (1, 4):
        calls[f"quantile_prices, {rounds} round" + "s" * (rounds > 1)] = routing(
            lambda scores, prices, places, rounds=rounds: quantile_prices(scores, CHOSEN, places, prices, rounds)
        )
        calls[f"interior_prices, {rounds} round" + "s" * (rounds > 1)] = routing(
            lambda scores, prices, places, rounds=rounds: interior_prices(scores, CHOSEN, places, prices, rounds)
        )
    for rounds in (2, 16):
        calls[f"capped_route, {rounds} rounds"] = routing(
            lambda scores, prices, places, rounds=rounds: capped_route(scores, prices, CHOSEN, places, rounds=rounds)
        )
    return calls | {
        "digit_histogram": routing(lambda scores, prices, places: digit_histogram(scores.int(), prices.int(), 21, 11)),
        "dispatch, combine": lambda: permuted(False),
        "dispatch, combine, backward": lambda: permuted(True),
        "repeat_by_budget": repeated,
        "group_advantages": advantages,
        "draw_by_budget": drawn,
        "project_loads": projected,
        "admit": admitted,
        **{f"BalancedRouter, {balance}": routed(balance, None) for balance in get_args(Balance)},
        "BalancedRouter, quantile, a limit of places": routed("quantile", 1.25),
    }


def launches(name: str, tokens: int, experts: int, kernels: str = "triton") -> Launches:
    """What one call starts. Raises what torch raises where the call looks at a number; `KeyError`: no such name."""
    with counting(kernels) as seen:
        call = operators(tokens, experts)[name]()
        seen.torch.clear()
        call()
    return seen


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="16384x256", metavar="TOKENSxEXPERTS")
    parser.add_argument("--names", default="", metavar="PART", help="operators with this in their name")
    parser.add_argument("--each", action="store_true", help="tell every kernel and operator")
    options = parser.parse_args()
    tokens, experts = map(int, options.size.split("x"))
    table = Table(title=f"launches at {tokens} × {experts}, k {CHOSEN}; torch {torch.__version__}")
    table.add_column("operator")
    for column in ("Triton's kernels", "torch's operators", "together", "by torch alone"):
        table.add_column(column, justify="right")
    console = Console(width=120)
    for name in operators(tokens, experts):
        if options.names not in name:
            continue
        ours, alone = launches(name, tokens, experts), launches(name, tokens, experts, "torch")
        table.add_row(name, *map(str, (ours.triton.total(), ours.torch.total(), ours.all, alone.all)))
        if options.each:
            console.print(name, dict(ours.triton), dict(ours.torch))
    console.print(table)


if __name__ == "__main__":
    main()
