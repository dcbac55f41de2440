"""Which places of a batch have an outcome already, and of which text, in 29 bytes each.

An outcome counts for a task if place and digest are the task's. Every other outcome of that place is out of date:
of another text, or of the same one solved again. It goes when the batch ends.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_RECORD = np.dtype([("high", "u8"), ("low", "u8"), ("digest", "u8")])


class Index:
    """Outcomes by place, in the order in which they were added, then none."""

    def __init__(self, outcomes: Iterable[tuple[bytes, bytes]]) -> None:
        """outcomes: key of the place and digest of the text, the oldest first."""
        records = bytearray()
        for key, digest in outcomes:
            records += key
            records += digest
        table = np.frombuffer(records, _RECORD)
        order = np.argsort(table["high"], kind="stable")
        self._order = order.astype(np.uint32)
        self._high, self._low, self._digest = (table[name][order] for name in ("high", "low", "digest"))
        self.outdated: Mask = np.zeros(len(table), np.bool_)
        """Of each outcome, in the order in which they were added, whether it goes when the batch ends."""

    def __len__(self) -> int:
        return len(self._order)

    def holds(self, key: bytes, digest: bytes, first: int = 0) -> bool:
        """Whether there is an outcome of this place and this text; then the others of the place are out of date.

        first: outcomes before that one do not count.
        """
        places = self._at(key)
        text = np.frombuffer(digest, np.uint64)[0]
        valid = [place for place in places if self._digest[place] == text and self._order[place] >= first]
        if valid:
            self.outdated[self._order[places]] = True
            self.outdated[self._order[valid[-1]]] = False
        return bool(valid)

    def replaced(self, key: bytes) -> None:
        """There is a new outcome of this place: all the others are out of date."""
        self.outdated[self._order[self._at(key)]] = True

    def compare(self, boundary: int) -> None:
        """Find what is out of date whatever the tasks are: outcomes of a place and a text that come again, and those
        of a place that come again on the same side of the boundary, which a new text has replaced."""
        same = (self._high[1:] == self._high[:-1]) & (self._low[1:] == self._low[:-1])
        side = self._order >= boundary
        same &= (self._digest[1:] == self._digest[:-1]) | (side[1:] == side[:-1])
        self.outdated[self._order[:-1][same]] = True

    def _at(self, key: bytes) -> NDArray[np.intp]:
        """Where in the sorted columns the outcomes of a place stand, the oldest first."""
        high, low = np.frombuffer(key, np.uint64)
        start = int(self._high.searchsorted(high))
        stop = start
        while stop < len(self._high) and self._high[stop] == high:
            stop += 1
        return start + np.flatnonzero(self._low[start:stop] == low)
