"""Which experts take which token, when no expert may take more than its capacity? Decided on the device.

Deferred acceptance (Gale and Shapley, 1962): tokens propose in the order of scores − prices; an expert keeps those that
would lose most elsewhere. With good prices few tokens are turned away, and the prices prove how much is lost at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import Inputs, whole
from .choice import uses_triton
from .order import best, comparable, ordered_keys, places, reduced_scores
from .segments import nothing

ROUNDS = 16
"""Rounds unless asked otherwise."""


class CappedRoute(NamedTuple):
    """An assignment within the capacities, and what it is worth.

    experts: (tokens × k) int64, distinct in a row, by descending scores − prices; −1 for padding and empty places.
    load: (experts,) int64 tokens that each takes, at most its capacity.
    unfilled: () int64 places of valid tokens that stay empty. complete: () bool, none does.
    objective: () float64, the scores of all that was assigned, added up.
    bound: () float64, no complete assignment within the capacities has more, by the prices (those below 0 count as 0).
    No gradient runs through any of them. With forbidden pairs places may stay empty that another assignment would fill.
    """

    experts: Tensor
    load: Tensor
    unfilled: Tensor
    complete: Tensor
    objective: Tensor
    bound: Tensor


def capped_route(
    scores: Tensor,
    prices: Tensor,
    k: int,
    capacity: int | Sequence[int] | Tensor,
    valid: Tensor | None = None,
    rounds: int | None = None,
) -> CappedRoute:
    """k experts for each token, near the largest total score, and no expert above its capacity.

    scores: (tokens × experts) floating point; −inf and NaN forbid a pair. prices: (experts,), as `quantile_prices`
    finds them. capacity: one number or one per expert. valid: (tokens,) bool, false for padding; all true if absent.
    rounds: of proposals at most; afterwards what is left is filled where room is.
    Raises `TypeError` and `ValueError`, also for too little capacity where numbers alone tell.
    """
    given = Inputs()
    given.take("scores", scores, "tokens experts")
    given.take("prices", prices, "experts")
    given.take_if("valid", valid, "tokens", "flag")
    tokens, experts = scores.shape
    wanted = whole("k", k, 1, experts, " (the number of experts)")
    limit = ROUNDS if rounds is None else whole("rounds", rounds, 1)
    size = places(capacity, given, tokens, experts, tokens * wanted if valid is None else None)
    return CappedRoute(*_capped_route(scores.detach(), prices.detach(), size, wanted, valid, limit))


@torch.library.custom_op("equipoise::capped_route", mutates_args=())
def _capped_route(
    scores: Tensor, prices: Tensor, places: Tensor, k: int, valid: Tensor | None, rounds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    value = comparable(scores, valid)
    reduced = reduced_scores(value, prices)
    wanted = torch.full((len(value),), k, device=value.device)
    wanted = wanted if valid is None else wanted * valid
    mine = _proposals(reduced, places, k, rounds)
    mine = _filled(mine, reduced, places, wanted, rounds)
    mine = _swapped(mine, reduced, places, wanted, rounds)
    held = best(torch.where(mine, reduced, -torch.inf), k)
    there = mine.gather(1, held)
    unfilled = (wanted - mine.sum(1)).sum()
    objective = value.gather(1, held).double().where(there, 0).sum()
    held = held.masked_fill(~there, -1)
    return held, mine.sum(0), unfilled, unfilled == 0, objective, _bound(value, prices, places, k)


@_capped_route.register_fake
def _(
    scores: Tensor, prices: Tensor, places: Tensor, k: int, valid: Tensor | None, rounds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tokens, experts = scores.shape
    return (
        scores.new_empty((tokens, k), dtype=torch.int64),
        scores.new_empty((experts,), dtype=torch.int64),
        scores.new_empty((), dtype=torch.int64),
        scores.new_empty((), dtype=torch.bool),
        scores.new_empty((), dtype=torch.float64),
        scores.new_empty((), dtype=torch.float64),
    )


def _proposals(reduced: Tensor, places: Tensor, k: int, rounds: int) -> Tensor:
    """(tokens × experts) bool: who holds a place where, after the rounds; no expert has more tokens than places.

    A token's claim is what it would lose by going down its list; nobody who is turned away asks there again. Lists end
    where few tokens come in so many rounds.
    """
    tokens, experts = reduced.shape
    depth = min(2 * (k + rounds), experts)
    order = best(reduced, depth)
    ranked = reduced.gather(1, order)
    allowed = (ranked > -torch.inf).sum(1, keepdim=True)
    held = torch.full((tokens, k), -1, dtype=torch.int64, device=reduced.device)  # positions in the lists
    asked = torch.zeros_like(allowed)  # how far down its list a token has come
    for _ in range(rounds):
        empty = held < 0
        entry = asked + empty.cumsum(1) - 1
        new = empty & (entry < allowed)
        if nothing(new):
            break
        held = entry.where(new, held)
        asked = asked + new.sum(1, keepdim=True)
        elsewhere = ranked.gather(1, asked.clamp(max=depth - 1)).masked_fill(asked >= allowed, -torch.inf)
        at = held.clamp(min=0)
        kept = _kept(order.gather(1, at), ranked.gather(1, at) - elsewhere, held >= 0, places)
        held = held.masked_fill(~kept, -1)
    mine = torch.zeros(tokens, experts + 1, dtype=torch.bool, device=reduced.device)
    return mine.scatter(1, order.gather(1, held.clamp(min=0)).masked_fill(held < 0, experts), True)[:, :-1]


def _filled(mine: Tensor, reduced: Tensor, places: Tensor, wanted: Tensor, rounds: int) -> Tensor:
    """As `mine`, with empty places filled where room is: a token asks its best such expert, each round."""
    for _ in range(rounds):
        room = places - mine.sum(0)
        offer, target = torch.where(mine | (room <= 0), -torch.inf, reduced).max(1, keepdim=True)
        asks = (offer > -torch.inf) & (mine.sum(1) < wanted)[:, None]
        if nothing(asks):
            break
        kept = _kept(target, offer, asks, room)
        mine = mine | torch.zeros_like(mine).scatter(1, target, kept)
    return mine


def _swapped(mine: Tensor, reduced: Tensor, places: Tensor, wanted: Tensor, rounds: int) -> Tensor:
    """As `mine`, after swaps: a token that finds room only where it is already takes the place of one that moves there.

    Each round every expert names the token that would lose least by moving to where room is, and every token that is
    short asks the expert where it and that token together do best; one is heard per expert and per mover.
    """
    tokens, experts = mine.shape
    index = torch.arange(tokens, device=mine.device)
    for _ in range(rounds):
        short = mine.sum(1) < wanted
        if nothing(short):
            break
        room = places - mine.sum(0)
        moved, target = reduced.masked_fill(mine | (room <= 0) | short[:, None], -torch.inf).max(1)
        gain, mover = (moved[:, None] - reduced).masked_fill(~mine, -torch.inf).max(0)
        worth, expert = (reduced + gain).masked_fill(mine | ~short[:, None], -torch.inf).max(1)
        heard = worth > -torch.inf
        if nothing(heard):
            break
        mover, target = mover[expert], target[mover[expert]]
        heard = _kept(expert[:, None], worth[:, None], heard[:, None], torch.ones_like(places))[:, 0]
        first = torch.full_like(index, tokens).scatter_reduce(0, mover, index.where(heard, tokens), "amin")
        heard = heard & (first[mover] == index)
        heard = _kept(target[:, None], worth[:, None], heard[:, None], room)[:, 0]
        mine = _marked(mine, mover, expert.where(heard, experts), False)
        mine = _marked(mine, mover, target.where(heard, experts), True)
        mine = _marked(mine, index, expert.where(heard, experts), True)
    return mine


def _marked(mine: Tensor, tokens: Tensor, experts: Tensor, mark: bool) -> Tensor:
    """As `mine`, with the mark at these pairs; nowhere for an expert that there is not."""
    width = mine.shape[1]
    flat = torch.cat([mine.flatten(), mine.new_zeros(1)])
    at = torch.where(experts < width, tokens * width + experts, mine.numel())
    return flat.index_fill(0, at, mark)[:-1].reshape(mine.shape)


def _kept(experts: Tensor, claim: Tensor, there: Tensor, places: Tensor) -> Tensor:
    """Which proposals the experts keep: the largest claims, of equals the earlier token, as many as have room."""
    if uses_triton(claim):
        from . import triton_capped

        return triton_capped.kept(claim, experts, there, places)
    count = len(places)
    target = experts.where(there, count).flatten()
    sorting = (target << 32) + (2**31 - 1 - ordered_keys(claim).flatten().long())
    ranking = sorting.sort(stable=True).indices
    sizes = torch.zeros(count + 1, dtype=torch.int64, device=claim.device)
    sizes.scatter_add_(0, target, torch.ones_like(target))
    first = sizes.cumsum(0) - sizes
    line = torch.empty_like(target)
    line[ranking] = torch.arange(len(target), device=claim.device)
    room = torch.cat([places, places.new_zeros(1)])
    return (line - first[target] < room[target]).reshape(experts.shape)


def _bound(value: Tensor, prices: Tensor, places: Tensor, k: int) -> Tensor:
    """() float64: what prices at least 0 prove."""
    floor = prices.double().clamp(min=0)
    top = (value.double() - floor).topk(k, dim=1).values
    used = torch.minimum(places, (value > -torch.inf).sum(0))  # no assignment can use more
    return top.where(top > -torch.inf, 0).sum() + (used * floor).where(used > 0, 0).sum()
