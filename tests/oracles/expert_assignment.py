"""Expert assignment by going through every way to fill the places: exact in whole numbers, for small tasks only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations


def best(
    scores: Sequence[Sequence[float]],
    experts_per_token: int,
    capacity: Sequence[int],
    valid: Sequence[bool] | None = None,
) -> Fraction | None:
    """The largest sum of scores, without any rounding; None if no assignment fits.

    Token by token, the best sum for every vector of places still free.
    """
    reached: dict[tuple[int, ...], Fraction] = {tuple(capacity): Fraction(0)}
    for token, row in enumerate(scores):
        if valid is not None and not valid[token]:
            continue
        exact = [Fraction(score) if score > -math.inf else None for score in row]
        following: dict[tuple[int, ...], Fraction] = {}
        for chosen in combinations(range(len(row)), experts_per_token):
            worth = [exact[expert] for expert in chosen]
            gained = sum((score for score in worth if score is not None), Fraction(0))
            if None in worth:
                continue
            for free, total in reached.items():
                left = tuple(places - (expert in chosen) for expert, places in enumerate(free))
                if min(left, default=0) >= 0 and following.get(left, total + gained - 1) < total + gained:
                    following[left] = total + gained
        reached = following
    return max(reached.values(), default=None)
