"""What proposals leave empty: filled where room is, or, where a token has that expert already, by moving another there.

Functions change an assignment; `reduced` (tokens × experts) are scores − prices, −inf for forbidden pairs, and `wanted`
(tokens,) how many experts each token should have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .proposals import Assignment, kept
from .segments import nothing


class Movers(NamedTuple):
    """For each expert (experts,), the token there that loses least by moving to where room is.

    gain: what that changes in its scores − prices; −inf if nobody can move. token, target: who, and where to.
    """

    gain: Tensor
    token: Tensor
    target: Tensor


class Swaps(NamedTuple):
    """For each token (tokens,), the expert whose place it asks for, and what makes it free.

    heard: whether it asks at all, and is heard. worth: of the swap. mover, target: who leaves that place, where to.
    """

    heard: Tensor
    worth: Tensor
    expert: Tensor
    mover: Tensor
    target: Tensor


def filled(assigned: Assignment, reduced: Tensor, places: Tensor, wanted: Tensor, rounds: int) -> None:
    """Fill places where room is: each round, a token that misses some asks the best such expert for one."""
    index = torch.arange(len(wanted), device=wanted.device)
    for _ in range(rounds):
        room = places - assigned.load
        offer, target = torch.where(assigned.mine | (room <= 0), -torch.inf, reduced).max(1)
        asks = (offer > -torch.inf) & (assigned.count < wanted)
        if nothing(asks):
            break
        assigned.give(index, target, kept(target, offer, asks, room))


def swapped(assigned: Assignment, reduced: Tensor, places: Tensor, wanted: Tensor, rounds: int) -> None:
    """Fill places by swaps, once there is room only at experts that the tokens which miss places have already.

    Such a token takes the place of one that moves to where room is. Many swaps happen in a round, none of which is in
    another's way: one at each expert, one of each token that moves, and as many to a target as it has room.
    """
    index = torch.arange(len(wanted), device=wanted.device)
    for _ in range(rounds):
        short = assigned.count < wanted
        if nothing(short):
            break
        room = places - assigned.load
        asked = _asked(assigned.mine, reduced, short, _movers(assigned.mine, reduced, short, room))
        if nothing(asked.heard):
            break
        swaps = _compatible(asked, room)
        assigned.take(swaps.mover, swaps.expert, swaps.heard)
        assigned.give(swaps.mover, swaps.target, swaps.heard)
        assigned.give(index, swaps.expert, swaps.heard)


def _movers(mine: Tensor, reduced: Tensor, short: Tensor, room: Tensor) -> Movers:
    """A token that is short itself moves nowhere: it would rather have both places."""
    moved, target = reduced.masked_fill(mine | (room <= 0) | short[:, None], -torch.inf).max(1)
    gain, token = (moved[:, None] - reduced).masked_fill(~mine, -torch.inf).max(0)
    return Movers(gain.clamp(max=torch.finfo(gain.dtype).max), token, target[token])


def _asked(mine: Tensor, reduced: Tensor, short: Tensor, movers: Movers) -> Swaps:
    """A token asks the expert where it and the token that moves away do best together."""
    worth, expert = (reduced + movers.gain).masked_fill(mine | ~short[:, None], -torch.inf).max(1)
    return Swaps(worth > -torch.inf, worth, expert, movers.token[expert], movers.target[expert])


def _compatible(swaps: Swaps, room: Tensor) -> Swaps:
    """Those that can happen at once; there is one, if any was asked for."""
    heard, worth, expert, mover, target = swaps
    index = torch.arange(len(heard), device=heard.device)
    heard = kept(expert, worth, heard, torch.ones_like(room))
    first = torch.full_like(index, len(index)).scatter_reduce_(0, mover, index.where(heard, len(index)), "amin")
    heard = heard & (first[mover] == index)
    return swaps._replace(heard=kept(target, worth, heard, room))
