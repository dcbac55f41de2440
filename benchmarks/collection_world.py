"""The world of the collection replay: real learning curves, what can be observed of them, and what an oracle buys.

The curves are test errors against training-set sizes, as one CSV (`examples/sources/learning_curves.py` says which, and
reads it). Between two anchors the error is interpolated linearly in log n; beyond the last nothing can be bought.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equipoise.examples.sources.learning_curves import FIRST_ANCHOR, Curve, read_curves

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

COLLECTED = (32, 128)
"""Samples of a group at the start, both ends included."""
UNTOUCHED = (
    "MiceProtein", "bank32nh", "cal_housing", "car", "colleges_aaup", "fri_c1_1000_50", "fri_c2_1000_25",
    "fri_c3_1000_50", "kits", "la2s.wc", "letter", "oh10.wc", "quake", "rmftsa_sleepdata", "visualizing_soil",
)  # fmt: skip
"""Data sets with anchors up to 500 on which nothing of our estimator was chosen; the others had a say in it."""


@dataclass(frozen=True)
class Setting:
    """What all draws share. lot: samples per lot. points: sizes at which each group is observed, each time.

    noise: times the source's standard error. keep: observations of earlier rounds stay.
    """

    groups: int = 12
    budget: int = 6000
    lot: int = 10
    points: int = 6
    noise: float = 1.0
    keep: bool = False


@dataclass(frozen=True)
class Seen:
    """Observations, (rows,) each: group, samples, loss, and the standard error that the fits are told."""

    group: Integers
    samples: Integers
    loss: Floats
    stderr: Floats

    def and_then(self, later: Seen) -> Seen:
        """These and later ones."""
        pairs = zip(vars(self).values(), vars(later).values(), strict=True)
        return Seen(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class Draw:
    """Some groups, a data set and learner each, and the samples that they start with; seed: of its noise."""

    curves: tuple[Curve, ...]
    start: Integers
    seed: tuple[int, int]

    @property
    def end(self) -> Integers:
        """(groups,) the last size of each curve."""
        return np.array([curve.samples[-1] for curve in self.curves])

    def error(self, samples: Integers) -> Floats:
        """(groups, ...) true errors at (groups, ...) samples."""
        rows = zip(self.curves, samples, strict=True)
        return np.array([np.interp(np.log(size), np.log(curve.samples), curve.loss) for curve, size in rows])

    def observe(self, setting: Setting, samples: Integers, time: int) -> Seen:
        """Noisy errors at sizes from the first anchor to what is collected, evenly spaced in log n.

        The noise is that of a mean over the source's repetitions: N(0, stderr²), new at every time, the same for
        every policy.
        """
        random, found = np.random.default_rng([*self.seed, time]), list[Seen]()
        for group, (curve, size) in enumerate(zip(self.curves, samples.tolist(), strict=True)):
            sizes = np.unique(np.rint(np.geomspace(FIRST_ANCHOR, size, setting.points)).astype(np.int64))
            stderr = setting.noise * np.interp(np.log(sizes), np.log(curve.samples), curve.stderr)
            mean = np.interp(np.log(sizes), np.log(curve.samples), curve.loss)
            loss = np.clip(mean + stderr * random.standard_normal(setting.points)[: len(sizes)], 0.0, 1.0)
            found.append(Seen(np.full(len(sizes), group), sizes, loss, stderr))
        return Seen(*(np.concatenate(column) for column in zip(*(vars(one).values() for one in found), strict=True)))

    def whole(self, points: int = 40) -> Seen:
        """Each curve to its end, without noise: what no buyer knows."""
        sizes = [np.unique(np.rint(np.geomspace(FIRST_ANCHOR, end, points)).astype(np.int64)) for end in self.end]
        group = np.repeat(np.arange(len(sizes)), [len(size) for size in sizes])
        error = [np.interp(np.log(s), np.log(c.samples), c.loss) for s, c in zip(sizes, self.curves, strict=True)]
        return Seen(group, np.concatenate(sizes), np.concatenate(error), np.ones(len(group)))

    def options(self, setting: Setting) -> Floats:
        """(groups × lots) true errors after every number of lots that the budget can pay; inf past a curve's end."""
        sizes = self.start[:, None] + setting.lot * np.arange(setting.budget // setting.lot + 1)
        reachable = sizes <= self.end[:, None]
        return np.where(reachable, self.error(np.minimum(sizes, self.end[:, None])), np.inf)


def read(path: Path, least_end: int, only: tuple[str, ...] | None = None) -> dict[str, list[Curve]]:
    """Curves with distinct anchors from the first to `least_end` at least, by data set; two data sets of one name
    are left out."""

    def qualifies(curve: Curve) -> bool:
        rising = bool((np.diff(curve.samples) > 0).all())
        return rising and curve.samples[0] <= FIRST_ANCHOR and curve.samples[-1] >= least_end

    curves = {
        name: [curve for curve in some if qualifies(curve)]
        for name, some in read_curves(path).items()
        if only is None or name in only
    }
    return {name: some for name, some in curves.items() if some}


def draws(curves: dict[str, list[Curve]], setting: Setting, count: int, seed: int) -> list[Draw]:
    """Groups of different data sets, one learner each, with uniform numbers of samples to start."""
    made, names = list[Draw](), sorted(curves)
    for number in range(count):
        random = np.random.default_rng([seed, number])
        picked = [curves[names[place]] for place in random.permutation(len(names))[: setting.groups]]
        chosen = tuple(some[random.integers(len(some))] for some in picked)
        made.append(Draw(chosen, random.integers(COLLECTED[0], COLLECTED[1] + 1, len(chosen)), (seed, number)))
    return made


def cheapest(error: Floats, lots: int) -> Integers:
    """(groups,) the lots, `lots` of them at most, that minimise the sum of (groups × lots) errors, of any shape.

    Dynamic programming over groups: the oracle's purchase.
    """
    best, choices = np.zeros(lots + 1), list[Integers]()
    for of_group in error:
        with_each = np.full((lots + 1, lots + 1), np.inf)
        for bought in np.flatnonzero(np.isfinite(of_group)).tolist():
            with_each[bought:, bought] = best[: lots + 1 - bought] + of_group[bought]
        choices.append(with_each.argmin(axis=1))
        best = with_each.min(axis=1)
    left, bought = int(best.argmin()), list[int]()
    for choice in reversed(choices):
        bought.append(int(choice[left]))
        left -= bought[-1]
    return np.array(bought[::-1], np.int64)


def most_level(error: Floats, lots: int, tolerance: float) -> Integers:
    """(groups,) the lots that minimise the largest error, and within `tolerance` of that the sum: the other oracle."""
    levels = np.unique(error[np.isfinite(error)])
    low, high = 0, len(levels) - 1

    def need(level: float) -> float:
        within = error <= level
        return float(np.where(within.any(axis=1), within.argmax(axis=1), np.inf).sum())

    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if need(levels[middle]) <= lots else (middle + 1, high)
    return cheapest(np.where(error <= levels[low] * (1 + tolerance), error, np.inf), lots)
