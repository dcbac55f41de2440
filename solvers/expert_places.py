"""Whether everyone finds enough places, and if not, who crowds where: for conflicts of assignment tasks.

Tokens want k distinct experts each out of those they are allowed, experts have places. That fits exactly if the
largest flow from tokens to experts meets all demands; if it does not, a minimum cut names experts that are left with
more demand than places (Hall, 1935; Ford and Fulkerson, 1956).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .program import Integers


@dataclass(frozen=True)
class Crowd:
    """Experts with fewer places than the tokens that have no other choice need.

    tokens, experts: their rows and columns. needed: places that these tokens need of these experts.
    """

    tokens: Integers
    experts: Integers
    needed: int


@dataclass(frozen=True)
class Places:
    """allowed: (tokens × experts) which pairs may be. wanted: experts per token. places: (experts,)."""

    allowed: NDArray[np.bool_]
    wanted: int
    places: Integers

    def fit(self) -> bool:
        """Whether every token finds its experts."""
        tokens, experts = self.allowed.shape
        demand = tokens * self.wanted
        if demand == 0:
            return True
        # An expert takes a token once. Without forbidden pairs, these conditions are all that there is.
        if self.wanted > experts or np.minimum(self.places, tokens).sum() < demand:
            return False
        if self.allowed.all():
            return True
        return bool((self.allowed.sum(axis=1) >= self.wanted).all()) and self._flow.optimal_flow() == demand

    def crowd(self) -> Crowd:
        """The near side of a minimum cut."""
        tokens, experts = self.allowed.shape
        near = np.sort(np.asarray(self._flow.get_source_side_min_cut(), np.int64))
        rows, columns = near[near < tokens], near[(near >= tokens) & (near < tokens + experts)] - tokens
        elsewhere = self.allowed[rows].sum(axis=1) - self.allowed[np.ix_(rows, columns)].sum(axis=1)
        needed = np.maximum(self.wanted - elsewhere, 0)
        return Crowd(rows[needed > 0], columns, int(needed.sum()))

    def least_raise(self) -> int | None:
        """By how many places each expert must grow so that everyone fits; None if that does not help.

        Each crowd gives a lower bound, which is tried next (Newton's method on a concave function: few steps).
        """
        tokens = len(self.allowed)
        if not Places(self.allowed, self.wanted, np.full(len(self.places), tokens)).fit():
            return None
        raised = 0
        while not (more := Places(self.allowed, self.wanted, self.places + raised)).fit():
            crowd = more.crowd()
            missing = crowd.needed - int(more.places[crowd.experts].sum())
            raised += max(-(-missing // max(len(crowd.experts), 1)), 1)
        return raised

    @cached_property
    def _flow(self) -> Any:
        """The largest flow. Nodes: tokens, experts, source, sink."""
        from ortools.graph.python import max_flow

        token, expert = np.nonzero(self.allowed)
        tokens, experts = self.allowed.shape
        source, sink = tokens + experts, tokens + experts + 1
        solver: Any = max_flow.SimpleMaxFlow()
        tail = np.concatenate([np.full(tokens, source), token, tokens + np.arange(experts)])
        head = np.concatenate([np.arange(tokens), tokens + expert, np.full(experts, sink)])
        ones = np.ones(len(token), np.int64)
        room = np.concatenate([np.full(tokens, self.wanted), ones, np.minimum(self.places, tokens)])
        solver.add_arcs_with_capacity(tail.astype(np.int32), head.astype(np.int32), room)
        solver.solve(source, sink)
        return solver
