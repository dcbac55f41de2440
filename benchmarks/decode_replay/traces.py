"""Lengths of real requests, drawn with replacement, and what is predicted of them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Trace:
    """Requests in the order in which they come.

    tokens: (requests,) of the prompt. output: (requests,) steps that each stays, at least 1.
    predicted: (requests,) how many it is thought to stay; None where nobody predicts.
    """

    name: str
    tokens: Integers
    output: Integers
    predicted: Integers | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def drawn(self, number: int, seed: int, foresight: str = "exact") -> Trace:
        """So many rows, drawn with replacement, with predictions; the rows depend on the seed alone."""
        rows = np.random.default_rng(seed).integers(len(self), size=number)
        output = self.output[rows]
        predicted = FORESIGHT[foresight](output, np.random.default_rng([seed, 1]))
        return Trace(self.name, self.tokens[rows], output, predicted)


def _scaled(output: Integers, factor: float | NDArray[np.float64]) -> Integers:
    return np.maximum(np.rint(output * factor), 1).astype(np.int64)


FORESIGHT: Mapping[str, Callable[[Integers, np.random.Generator], Integers | None]] = {
    "exact": lambda output, random: output,
    "±50 %": lambda output, random: _scaled(output, random.uniform(0.5, 1.5, len(output))),
    "40 % short": lambda output, random: _scaled(output, 0.6),
    "none": lambda output, random: None,
}
"""What a router knows of output lengths: all; a factor off, uniform in [0.5, 1.5] per request; all too short; nothing.

A request that outlives its prediction is predicted to leave after the next step, again and again.
"""

SAMPLES = Path(__file__).parent / "data"
"""Samples of the traces, some rows each: figures from them are near those of the whole traces, not the same."""
TRACES: Mapping[str, str] = {
    "azure": "azure2023_conv.csv",
    "mooncake": "mooncake_conversation.csv",
    "r1": "servegen_deepseek_r1_resampled.csv",
}
"""Name → file with the columns input_tokens and output_tokens; README.md beside this file tells of their sources."""

ROUNDS: Mapping[str, float] = {"azure": 20.0, "mooncake": 20.0, "r1": 40.0}
"""Requests per slot in a replay: enough for a window of thousands of steps after the longest initial request."""


def read_trace(path: Path | str, name: str | None = None) -> Trace:
    """The requests of a CSV with the columns input_tokens and output_tokens; rows without output are left out."""
    path = Path(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(int(row["input_tokens"]), int(row["output_tokens"])) for row in csv.DictReader(file)]
    kept = np.array([row for row in rows if row[1] >= 1], dtype=np.int64).reshape(-1, 2)
    if not len(kept):
        raise ValueError(f"{path} has no request with output tokens")
    return Trace(name or path.stem, np.ascontiguousarray(kept[:, 0]), np.ascontiguousarray(kept[:, 1]))
