"""What a batch has come to: counts per kind of task, and how gaps and solve times are spread, in level memory.

A spread is a histogram whose bins are each one per cent wider than the last, so that a quantile is within half a per
cent of the true one, however many numbers there were; the smallest and the largest are kept as they came.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

MOST_NAMES = 100
"""Kinds, and causes, of failures that are counted apart: a document that no spec can be read from says any kind."""
OTHER = "other"
"""What counts the names beyond those."""

_WIDTH = math.log(1.01)


class Spread:
    """How numbers ≥ 0 are spread: infinity among them, but no NaN."""

    __slots__ = ("_bins", "count", "largest", "smallest", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.smallest, self.largest = math.inf, 0.0
        self._bins = Counter[float]()

    def add(self, value: float) -> None:
        """Count one number. Raises `ValueError` for one that is negative or NaN."""
        if not value >= 0:
            raise ValueError(f"a number that is at least 0 is wanted, got {value}")
        # Zero and infinity have bins of their own, whose names sort where they belong.
        self._bins[math.floor(math.log(value) / _WIDTH) if 0 < value < math.inf else (value or -math.inf)] += 1
        self.count += 1
        self.total += value
        self.smallest, self.largest = min(self.smallest, value), max(self.largest, value)

    def quantile(self, share: float) -> float | None:
        """The smallest number that at least this share of all do not exceed, within 0.5 %; None where there are none.

        The quantiles 0 and 1 are exact, and so is one of 0 or infinity.
        """
        if not self.count:
            return None
        if share >= 1:
            return self.largest
        rank = max(math.ceil(share * self.count), 1)
        for place in sorted(self._bins):
            rank -= self._bins[place]
            if rank <= 0:
                middle = 0.0 if place == -math.inf else math.exp(min((place + 0.5) * _WIDTH, 709.78))
                return min(max(middle if place < math.inf else math.inf, self.smallest), self.largest)
        raise AssertionError("every rank has its bin")


@dataclass
class Kind:
    """The outcomes of one kind of task. statuses: plans by the status of their certificates. failures: by cause."""

    statuses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    gap: Spread = field(default_factory=Spread)
    seconds: Spread = field(default_factory=Spread)

    @property
    def solved(self) -> int:
        """How many have a plan."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """How many have none."""
        return self.failures.total()


class Tally:
    """The outcomes of a batch. Of one thread.

    kinds: by name, in the order in which they came; None for tasks that do not say.
    plans, failures: tasks with a plan, and without. exit_code: of the worst failure; 0 where there is none.
    """

    def __init__(self) -> None:
        self.kinds: dict[str | None, Kind] = {}
        self.exit_code = 0
        self.plans = self.failures = 0

    @property
    def done(self) -> int:
        """Tasks with an outcome."""
        return self.plans + self.failures

    def solved(self, kind: str, status: str, gap: float, seconds: float) -> None:
        """Count a plan. gap: relative; seconds: that solving took, both as of the certificate."""
        counted = self.kinds.setdefault(kind, Kind())
        counted.gap.add(gap)
        counted.seconds.add(seconds)
        counted.statuses[status] += 1
        self.plans += 1

    def failed(self, kind: str | None, type: str, exit_code: int, cause: str | None = None) -> None:
        """Count a failure. type: of the error. cause: what it is counted under instead, if there is a better name."""
        if kind not in self.kinds and len(self.kinds) >= MOST_NAMES:
            kind = OTHER
        failures = self.kinds.setdefault(kind, Kind()).failures
        name = cause or type
        failures[name if name in failures or len(failures) < MOST_NAMES else OTHER] += 1
        self.exit_code = max(self.exit_code, exit_code)
        self.failures += 1

    def causes(self) -> Counter[str]:
        """Failures of all kinds by cause, the most frequent first."""
        total = Counter[str]()
        for kind in self.kinds.values():
            total += kind.failures
        return Counter(dict(total.most_common()))
