"""Which experts get a token, inside a mixture-of-experts layer while it trains: a router that balances itself.

The choice is always by scores − prices; the methods differ in how prices come about and in what is a limit.

- none: prices of 0. auxiliary: the same, and a loss that pulls the loads together (Switch Transformers, arXiv
  2101.03961; over sigmoid scores by their share of a token's sum, as DeepSeek-V3 does, arXiv 2412.19437).
- loss_free: prices go up by a step where the last batch's load was above the mean, down where it was below it
  (arXiv 2408.15664, whose bias is −price).
- bip: prices of this batch, clipped at 0, before it is routed (arXiv 2502.15451).
- quantile: prices that would have levelled the last batch (Quantile Balancing): no token's experts depend on those
  of later tokens of its batch.
- capped: prices of this batch, near the optimal ones, and then the capacities are met exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .checks import Inputs, flag, number, whole
from .loads import keep_best, load_of
from .routing import capped_route, interior_prices, quantile_prices, topk_route

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Balance = Literal["none", "auxiliary", "loss_free", "bip", "quantile", "capped"]
Score = Literal["softmax", "sigmoid"]

ROUNDS = {"bip": 4, "quantile": 1, "capped": 4}
"""Rounds of prices in one training step, where nothing else is asked for."""


class Routed(NamedTuple):
    """Where the tokens of a batch go.

    experts: (tokens, k + shared) int64: the k chosen, best first, −1 for padding and for what is dropped; then the
        shared experts, which follow the chosen ones in number: experts, experts + 1, …
    weights: (tokens, k + shared) of the dtype of the tokens: 0 where there is no expert, 1 for shared ones.
    auxiliary: () what to add to the loss, already multiplied by its coefficient; 0 unless `balance` is auxiliary.
    load: (experts,) int64: tokens that chose each expert, those included that it then has no place for.
    dropped: () int64: choices that real tokens should have had and have not.
    """

    experts: Tensor
    weights: Tensor
    auxiliary: Tensor
    load: Tensor
    dropped: Tensor


class BalancedRouter(nn.Module):
    """The router of a mixture-of-experts layer; `dispatch` and `combine` take what it returns.

    width: of a token. experts: to choose from. k: chosen per token. balance: the method, see the module.
    score: softmax or sigmoid of the router's logits, computed in float32 at least, autocast or not.
    shared: experts that every token gets besides, with weight 1.
    capacity_factor: an expert has ⌈capacity_factor · tokens · k / experts⌉ places in a batch of this rank; at least 1.
        What comes on top is dropped, the smallest scores first, ties the later token first. None: no limit, except
        that capped has one anyway, of factor 1.
    iterations: rounds of prices per training step of bip, quantile and capped; None: 4, 1 and 4.
    step: of loss_free. coefficient: of the auxiliary loss. normalise: weights of a token's experts add up to 1.
    group: ranks that share one state: prices are those of all their tokens together; places and losses are a rank's
        own. A router with a group can be neither copied nor pickled, since process groups cannot: keep its state_dict.

    State is one buffer, `prices` (experts,) in float32, which checkpoints hold; it stays float32 when the module is
    cast. `forward` moves it in training only. In `eval()` there is no limit of places either, so that a token's
    experts do not depend on the other tokens of its batch. A batch that is run twice moves prices twice: keep the
    router out of recomputed (checkpointed) segments.

    Raises `TypeError` and `ValueError` for bad options.
    """

    prices: Tensor

    def __init__(
        self,
        width: int,
        experts: int,
        k: int,
        balance: Balance = "quantile",
        score: Score = "sigmoid",
        shared: int = 0,
        capacity_factor: float | None = None,
        iterations: int | None = None,
        step: float = 0.001,
        coefficient: float = 0.01,
        normalise: bool = True,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.experts = whole("experts", experts, 1)
        self.k = whole("k", k, 1, self.experts, ", the experts there are")
        self.balance = _one_of("balance", balance, get_args(Balance))
        self.score = _one_of("score", score, get_args(Score))
        self.shared = whole("shared", shared, 0)
        if capacity_factor is None and balance == "capped":
            capacity_factor = 1.0
        self.capacity_factor = None if capacity_factor is None else number("capacity_factor", capacity_factor, 1.0)
        self.iterations = ROUNDS.get(balance, 1) if iterations is None else whole("iterations", iterations, 1)
        self.step = number("step", step, 0.0)
        self.coefficient = number("coefficient", coefficient, 0.0)
        self.normalise = flag("normalise", normalise)
        self.group = group
        self.gate = nn.Linear(whole("width", width, 1), self.experts, bias=False)
        self.register_buffer("prices", torch.zeros(self.experts, dtype=torch.float32))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Routed:
        """Route a batch: x (tokens, width), valid (tokens,) bool, false for padding. See `Routed`.

        Gradients reach x and the gate through weights and auxiliary. Raises `TypeError` and `ValueError` for
        tensors that do not fit, before anything is computed.
        """
        inputs = Inputs()
        inputs.take("gate.weight", self.gate.weight, "experts width")
        inputs.take("x", x, "tokens width")
        inputs.take_if("valid", valid, "tokens", "flag")
        if valid is not None:  # padding may hold anything, and must not reach the gate's gradient
            x = x.where(valid[:, None], 0.0)
        scores = self._scores(x)
        tokens = _count(x, valid)
        chosen = self.choose(scores.detach(), valid)
        load = load_of(chosen, self.experts)
        kept = chosen
        if self.training and self.capacity_factor is not None and self.balance != "capped":
            kept = keep_best(scores.detach(), chosen, self._places(tokens, self.capacity_factor))
        auxiliary = self._auxiliary(scores, load, valid) if self.balance == "auxiliary" else scores.new_zeros(())
        experts, weights = self._with_shared(kept, self._weights(scores, kept), valid)
        if self.training:
            self._learn(scores.detach(), load, valid)
        return Routed(experts, weights.to(x.dtype), auxiliary, load, tokens * self.k - (kept >= 0).sum())

    def choose(self, scores: Tensor, valid: Tensor | None) -> Tensor:
        """The experts (tokens, k) int64 of each token before any is dropped; for other methods, in a class of theirs.

        scores: (tokens, experts), without a gradient. May move `prices` if `training`.
        """
        if not self.training:
            return topk_route(scores, self.prices.to(scores.dtype), self.k, valid)
        if self.balance in ("bip", "capped"):
            self._level(scores, valid)
        prices = self.prices.to(scores.dtype)
        if self.balance == "capped":
            places = self._places(_count(scores, valid), self.capacity_factor)
            return capped_route(scores, prices, self.k, places, valid).experts
        return topk_route(scores, prices, self.k, valid)

    def reset_parameters(self) -> None:
        """Begin anew: the gate as torch begins a linear layer, and prices of 0."""
        self.gate.reset_parameters()
        self.prices.zero_()

    def extra_repr(self) -> str:
        """What differs from router to router."""
        limit = "" if self.capacity_factor is None else f", capacity_factor={self.capacity_factor}"
        return f"experts={self.experts}, k={self.k}, balance={self.balance}, score={self.score}{limit}"

    def _scores(self, x: Tensor) -> Tensor:
        """(tokens, experts) in float32 at least."""
        exact = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            logits = functional.linear(x.to(exact), self.gate.weight.to(exact))
            return logits.softmax(dim=1) if self.score == "softmax" else logits.sigmoid()

    def _weights(self, scores: Tensor, experts: Tensor) -> Tensor:
        there = experts >= 0
        weights = scores.gather(1, experts.clamp(min=0)).where(there, 0.0)
        if self.normalise:
            return _parts(weights)
        return weights

    def _with_shared(self, experts: Tensor, weights: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        if not self.shared:
            return experts, weights
        always = torch.arange(self.experts, self.experts + self.shared, device=experts.device)
        always = always.expand(len(experts), self.shared)
        ones = torch.ones_like(always, dtype=weights.dtype)
        if valid is not None:
            always, ones = always.where(valid[:, None], -1), ones.where(valid[:, None], 0.0)
        return torch.cat((experts, always), dim=1), torch.cat((weights, ones), dim=1)

    def _auxiliary(self, scores: Tensor, load: Tensor, valid: Tensor | None) -> Tensor:
        """coefficient · Σ_j (load of j / mean load) · (mean share of j in a token's scores)."""
        shares = scores if self.score == "softmax" else _parts(scores)
        if valid is not None:
            shares = shares.where(valid[:, None], 0.0)
        tokens = _count(shares, valid).clamp(min=1)
        relative = (load * self.experts) / (tokens * self.k)
        return self.coefficient * (relative * (shares.sum(dim=0) / tokens)).sum()

    def _learn(self, scores: Tensor, load: Tensor, valid: Tensor | None) -> None:
        """What the next batch's prices take from this one."""
        if self.balance == "quantile":
            self._level(scores, valid)
        elif self.balance == "loss_free":
            load = self._summed(load)
            excess = load * self.experts - load.sum()
            self.prices.add_(excess.sign().to(self.prices.dtype), alpha=self.step)

    def _level(self, scores: Tensor, valid: Tensor | None) -> None:
        """Move prices towards those at which the batch of all ranks is level."""
        tokens = self._summed(_count(scores, valid))
        given = scores, self.k, self._places(tokens, self.capacity_factor if self.balance == "capped" else 1.0)
        start = self.prices.to(scores.dtype)
        if self.balance == "capped":
            moved = interior_prices(*given, start, self.iterations, valid, self.group)
        else:
            moved = quantile_prices(*given, start, self.iterations, valid, self.balance == "bip", self.group)
        # Of no tokens there is nothing to learn.
        self.prices.copy_(torch.where(tokens > 0, moved.to(self.prices.dtype), self.prices))

    def _places(self, tokens: Tensor, factor: float | None) -> Tensor:
        """(experts,) int64: the places that experts have for so many tokens."""
        due = tokens * self.k
        if factor is not None and factor != 1.0:
            most = (tokens * self.experts).to(torch.float64)  # a place for every pair
            due = torch.minimum(torch.ceil(due.to(torch.float64) * factor), most).to(torch.int64)
        return ((due + (self.experts - 1)) // self.experts).expand(self.experts)

    def _summed(self, counts: Tensor) -> Tensor:
        """The same counts over all ranks."""
        if self.group is None:
            return counts
        from torch import distributed

        counts = counts.clone()
        distributed.all_reduce(counts, group=self.group)
        return counts

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BalancedRouter:
        """Casting the module leaves prices in float32: half types cannot hold a step of them."""
        before = self.prices
        super()._apply(fn, recurse)
        if self.prices.dtype != torch.float32:
            kept = torch.empty_like(self.prices, dtype=torch.float32) if before.is_meta else before
            self.prices = kept.to(self.prices.device)
        return self


def _parts(values: Tensor) -> Tensor:
    """Each value's part of the sum of its row; of a row of zeros 0, and its gradient too."""
    total = values.sum(dim=1, keepdim=True)
    return values / total.where(total > 0, 1.0)


def _count(rows: Tensor, valid: Tensor | None) -> Tensor:
    """() int64: tokens that are no padding."""
    if valid is not None:
        return valid.sum()
    return torch.full((), len(rows), dtype=torch.int64, device=rows.device)


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise ValueError(f"{name}: must be one of {', '.join(known)}, got {value!r}")
    return value
