"""The columns and rows that every program for a collection budget has: lots, their bounds, and what they are worth."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..specs.collection_budgets import CollectionBudgets
from ..specs.collection_sense import SHARE_ROOM
from .collection_market import Market
from .program import Builder, Floats, Integers

COEFFICIENT = 2.0**20
"""Coefficients of the budget row are brought below this, by a power of two: HiGHS's tolerances are absolute."""


class Columns:
    """Adds the lots of a market to a program, and what ties them to the spec."""

    def __init__(self, spec: CollectionBudgets) -> None:
        self.spec = spec
        self.market = Market(spec)

    def lots(self, builder: Builder, lower: Integers | float, upper: Integers | float) -> Integers:
        """The columns that count lots, and every bound that the spec puts on them."""
        market, groups = self.market, self.spec.groups
        lots = builder.columns("lots", len(groups), lower=lower, upper=upper, integer=True)
        for name, least, most in (
            ("least", groups.least is not None, None),
            ("available", False, None if groups.available is None else market.available),
            ("most", False, None if groups.most is None else market.permitted),
        ):
            if least:
                builder.entries(builder.rows(name, len(groups), lower=market.least, lower_field=f"groups.{name}"), lots)
            elif most is not None:
                builder.entries(builder.rows(name, len(groups), upper=most, upper_field=f"groups.{name}"), lots)
        scale = self.money_scale
        row = builder.rows("budget", 1, upper=market.purse.room / scale, upper_field="budget")
        builder.entries(row, lots, market.purse.cost / scale)
        for name, shares in (("least_share", groups.least_share), ("most_share", groups.most_share)):
            if shares is not None:
                self._share_rows(builder, lots, name, shares)
        return lots

    @property
    def money_scale(self) -> float:
        """Units of money in one unit of the budget row."""
        largest = float(self.market.purse.cost.max(initial=1))
        return 2.0 ** max(math.ceil(math.log2(largest / COEFFICIENT)), 0)

    def _share_rows(self, builder: Builder, lots: Integers, name: str, shares: Floats) -> None:
        """A group's lots against its share of all lots. Scaled, so that HiGHS's tolerance is far below SHARE_ROOM."""
        least = name == "least_share"
        lower, upper = (0.0, np.inf) if least else (-np.inf, 0.0)
        rows = builder.rows(name, len(lots), lower=lower, upper=upper, field=f"groups.{name}")
        lenient = shares + (-SHARE_ROOM if least else SHARE_ROOM) / 2
        builder.entries(rows[:, None], lots[None, :], (np.eye(len(lots)) - lenient[:, None]) * COEFFICIENT)

    def worth_rows(self, builder: Builder, lots: Integers, low: Integers, high: Integers) -> Integers:
        """Ties the lots from `low` to `high` to the columns that carry what they spare; returns these rows."""
        group, lot, blunt = self.single(low, high)
        gain = self.market.gain(group, lot)
        rows = builder.rows("worth", len(lots), lower=low, upper=low)
        builder.entries(rows, lots)
        extra = builder.columns("extra", int((~blunt).sum()), cost=-gain[~blunt], upper=1.0)
        builder.entries(rows[group[~blunt]], extra, -1.0)
        if blunt.any():
            # A first lot that is worth less than the second must still come first.
            opened = builder.columns("opened", int(blunt.sum()), cost=-gain[blunt], upper=1.0, integer=True)
            builder.entries(rows[group[blunt]], opened, -1.0)
            gate = builder.rows("gate", len(opened), upper=0.0)
            builder.entries(gate, lots[group[blunt]])
            builder.entries(gate, opened, -high[group[blunt]].astype(np.float64))
        return rows

    def single(self, low: Integers, high: Integers) -> tuple[Integers, Integers, NDArray[np.bool_]]:
        """Every single lot from `low` to `high`: its group, its number, and whether it is worth less than the next."""
        every, width = self.market.every, high - low
        group = np.repeat(every, width)
        lot = low[group] + np.arange(len(group)) - np.repeat(np.cumsum(width) - width, width)
        wide = every[width > 1]
        return group, lot, np.isin(group, self.market.blunt(wide, low[wide])) & (lot == low[group])
