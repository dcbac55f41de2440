"""Where does each of N things go in a shuffled order, without the order ever being written down?

A keyed permutation of 0 … N−1, computed for any of them alone: a Feistel network over a rectangle of numbers a × b ≥ N,
which adds a hash of one side to the other in turns, walked on from cells beyond N until one below N is reached
(format-preserving encryption: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). For draws, not
for secrets: the hash is the 32-bit finaliser of MurmurHash3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .choice import uses_triton

ROUNDS = 16
"""Enough that pairs and triples out of the smallest domains come out evenly; twelve are too few for domains of five."""
WALK = 8
"""Longest walk. Domains below 652 have at most seven cells beyond, so that it ends; in others it does not end for less
than one in 10¹⁷."""
NEAR = 16
"""Widths of rectangles that are tried."""
_WORD = 0xFFFFFFFF


def shuffled(index: Tensor, domain: Tensor, which: Tensor, seed: int) -> Tensor:
    """(entries,) int64 where `index` (entries,) goes within its domain, of which there are several of different sizes.

    domain (domains,) sizes, from 1 to 2⁵²; which (entries,) the domain of each; 0 ≤ index < its size. Different
    indices go to different places; a place at or beyond the size is a walk that did not end.
    """
    width, height = rectangle(domain)
    keys = _keys(seed, len(domain), domain.device)
    if uses_triton(index):
        from . import triton_shuffle

        return triton_shuffle.shuffled(index, which, domain, width, height, keys, WALK)
    width, height, size = width[which], height[which], domain[which]
    number = _through(index, width, height, keys, which)
    for _ in range(WALK - 1):
        beyond = number >= size
        if number.device.type != "cpu":  # a look would have to wait
            number = torch.where(beyond, _through(number, width, height, keys, which), number)
        elif len(left := beyond.nonzero()[:, 0]):
            number[left] = _through(number[left], width[left], height[left], keys, which[left])
        else:
            break
    return number


def rectangle(size: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers, near each other, with a product of at least `size` and hardly more."""
    root = size.to(torch.float64).sqrt().ceil().to(torch.int64)
    least = (root - root.div(4, rounding_mode="floor")).clamp_min(1)
    width = torch.maximum(root[:, None] - torch.arange(NEAR, device=size.device), least[:, None])
    height = (size[:, None] + width - 1).div(width, rounding_mode="floor")
    best = (width * height).argmin(dim=1, keepdim=True)
    return width.gather(1, best)[:, 0], height.gather(1, best)[:, 0]


def _through(number: Tensor, width: Tensor, height: Tensor, keys: Tensor, which: Tensor) -> Tensor:
    left = number.div(height, rounding_mode="floor")
    right = number - left * height
    for turn in range(0, ROUNDS, 2):
        left = _added(left, right + keys[turn][which], width)
        right = _added(right, left + keys[turn + 1][which], height)
    return left * height + right


def _added(number: Tensor, other: Tensor, limit: Tensor) -> Tensor:
    """A number below a limit plus a hash of another, modulo the limit."""
    added = _mixed(other).mul_(limit).bitwise_right_shift_(32).add_(number)
    return torch.where(added < limit, added, added - limit)


def _mixed(number: Any) -> Any:
    """A hash of 32 bits, of a number or a tensor of them; one to one on 32 bits."""
    number = number & _WORD  # from here on in place: memory is what takes the time
    number ^= number >> 16
    number *= 0x85EBCA6B
    number &= _WORD
    number ^= number >> 13
    number *= 0xC2B2AE35
    number &= _WORD
    number ^= number >> 16
    return number


def _keys(seed: int, domains: int, device: torch.device) -> Tensor:
    """(ROUNDS, domains) 32 bits each; the seed is hashed first, so that no two seeds share the keys of neighbours."""
    low = _mixed(_mixed(seed) + (seed >> 32))
    high = _mixed(_mixed(seed >> 32) ^ low)
    turn = _mixed(low + 0x9E3779B9 * torch.arange(1, ROUNDS + 1, device=device)[:, None])
    return _mixed(_mixed(torch.arange(domains, device=device) + turn) ^ high)
