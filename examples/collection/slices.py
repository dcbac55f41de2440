"""What is on offer in the collection loop: scikit-learn's digits (1,797 scans of 8 × 8), cut into groups.

Source of the data: UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), the part of it that
scikit-learn ships.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

NOISE_SEED = 20
"""Of the noise in the images, which is the same in every run."""


@dataclass(frozen=True)
class Offer:
    """A table of labelled scans, sorted by group. images: (rows, 64), in [0, 1]. label, group, source: (rows,); the
    source is the digit that was scanned, which several groups may share."""

    names: tuple[str, ...]
    images: Floats
    label: Integers
    group: Integers
    source: Integers


@dataclass(frozen=True)
class Split:
    """What one run can buy, in the order of the groups, and what it is judged on: rows of an offer, with no digit in
    common."""

    pool: Integers
    test: Integers


def _noisy(strength: float) -> Callable[[Floats, np.random.Generator], Floats]:
    def scan(images: Floats, random: np.random.Generator) -> Floats:
        return np.clip(images + strength * random.standard_normal(images.shape), 0, 1).astype(np.float32)

    return scan


def _half(images: Floats, random: np.random.Generator) -> Floats:
    images = images.copy()
    images[:, 4:] = 0
    return images


SCANNERS: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "plain": lambda images, random: images,
    "faint": lambda images, random: images * np.float32(0.3),
    "inverted": lambda images, random: 1 - images,
    "turned": lambda images, random: np.rot90(images, axes=(1, 2)),
    "mirrored": lambda images, random: images[:, :, ::-1],
    "noisy": _noisy(0.15),
    "very noisy": _noisy(0.3),
    "upper half": _half,
}
"""Ways in which the same digits are scanned, each a group of its own."""


def scanners() -> Offer:
    """Every digit scanned in eight ways, a group each: some teach each other, some are hard, some stay so."""
    images, label = _digits()
    random, count = np.random.default_rng(NOISE_SEED), len(SCANNERS)
    seen = [scan(images, random).reshape(len(images), -1) for scan in SCANNERS.values()]
    group, source = np.divmod(np.arange(count * len(images)), len(images))
    return Offer(tuple(SCANNERS), np.concatenate(seen), np.tile(label, count), group, source)


def digits() -> Offer:
    """The plain scans, a group for each of the ten digits."""
    images, label = _digits()
    source = np.argsort(label, kind="stable")
    names = tuple(f"digit {digit}" for digit in range(10))
    return Offer(names, images.reshape(len(images), -1)[source], label[source], label[source], source)


OFFERS = {"scanners": scanners, "digits": digits}
"""The ways to cut the data into groups."""


def _digits() -> tuple[Floats, Integers]:
    data: Any = load_digits()
    return (data.images / 16).astype(np.float32), data.target.astype(np.int64)


def split(offer: Offer, share: float, rarest: float, random: np.random.Generator) -> Split:
    """A share of the digits for the pool, the others for the test; the same share of every label.

    Groups are not equally common: from one group to the next the pool holds fewer rows by a constant factor, the last
    `rarest` times as many as the first, in an order that is drawn as well.
    """
    label = np.zeros(offer.source.max() + 1, np.int64)
    label[offer.source] = offer.label
    for_pool = np.zeros(len(label), np.bool_)
    for kind in np.unique(label).tolist():
        of_kind = random.permutation(np.flatnonzero(label == kind))
        for_pool[of_kind[: round(share * len(of_kind))]] = True
    commonness = random.permutation(np.geomspace(1.0, rarest, len(offer.names)))
    pool = list[Integers]()
    for group, common in enumerate(commonness.tolist()):
        rows = np.flatnonzero((offer.group == group) & for_pool[offer.source])
        pool.append(np.sort(random.permutation(rows)[: max(1, round(common * len(rows)))]))
    return Split(np.concatenate(pool), np.flatnonzero(~for_pool[offer.source]))
