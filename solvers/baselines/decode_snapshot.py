"""A decode step as a router sees it: plain arrays, and nothing that it cannot know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..program import Integers

LASTING = 2**40
"""Steps that stand for "no prediction": beyond any horizon."""


@dataclass(slots=True)
class Snapshot:
    """The requests on the workers and in the queue just before an admission. All arrays are int64.

    slots: (workers,) requests that each decodes at once.
    worker, tokens: (active,) where each request sits, and its resident tokens.
    remaining: (active,) predicted steps until it is done, at least 1; None if nobody predicts.
    waiting_tokens, waiting_remaining, waited: (waiting,) the same for the queue, the oldest first, and the steps
    that each has waited.
    """

    slots: Integers
    worker: Integers
    tokens: Integers
    remaining: Integers | None
    waiting_tokens: Integers
    waiting_remaining: Integers | None
    waited: Integers

    def lasting(self) -> tuple[Integers, Integers]:
        """(active,) and (waiting,) predicted steps; without predictions nobody leaves."""
        if self.remaining is None or self.waiting_remaining is None:
            return np.full(len(self.worker), LASTING), np.full(len(self.waiting_tokens), LASTING)
        return self.remaining, self.waiting_remaining


Rule = Callable[[Snapshot], Integers]
"""(waiting,) the worker that each waiting request goes to; −1 keeps it waiting."""
