"""Which replays to run, in what order; what has been run is kept in a file and not run again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .policies import POLICIES, ours
from .simulator import Metrics, Policy, replay
from .traces import ROUNDS, Trace

OURS = "equipoise"


@dataclass(frozen=True)
class Cell:
    """One replay."""

    trace: str
    workers: int
    slots: int
    foresight: str
    rounds: float
    full: bool
    policy: str
    seed: int

    def key(self) -> str:
        """What names it in a file of results."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Grid:
    """All combinations, so many seeds from the first on; `rounds` None takes what suits each trace."""

    traces: Sequence[str]
    workers: Sequence[int]
    slots: int
    foresight: Sequence[str]
    rounds: float | None
    full: bool
    policies: Sequence[str]
    seeds: int
    first: int = 0

    def cells(self) -> Iterator[Cell]:
        """Seed by seed, so that what has been run is balanced at any moment."""
        for trace in self.traces:
            rounds = ROUNDS.get(trace, 20.0) if self.rounds is None else self.rounds
            cell = Cell(trace, 0, self.slots, "", rounds, self.full, "", 0)
            for workers in self.workers:
                for foresight in self.foresight:
                    for seed in range(self.first, self.first + self.seeds):
                        for policy in self.policies:
                            yield replace(cell, workers=workers, foresight=foresight, policy=policy, seed=seed)


def policy_named(name: str) -> Policy:
    """A peer, ours, or ours with fields of the spec: `equipoise:max_bypass=32,horizon=0/4/16,objective=imbalance`."""
    if name in POLICIES:
        return POLICIES[name]
    head, _, fields = name.partition(":")
    if head != OURS:
        raise ValueError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}, and {OURS}:FIELD=VALUE,…")
    settings = {}
    for setting in fields.split(","):
        field, _, value = setting.partition("=")
        settings[field] = _value(value)
    return ours(**settings)


def _value(text: str) -> Any:
    if "/" in text:
        return [int(part) for part in text.split("/")]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


class Results:
    """Metrics by cell, kept in a file of JSON lines if there is a path."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: dict[str, Metrics] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.found[row["cell"]] = Metrics(**row["metrics"])

    def __getitem__(self, cell: Cell) -> Metrics:
        return self.found[cell.key()]

    def __contains__(self, cell: Cell) -> bool:
        return cell.key() in self.found

    def run(self, cell: Cell, trace: Trace, watch: Any = None) -> None:
        """Replays a cell, unless it is there already."""
        if cell in self:
            return
        metrics = replay(
            trace, policy_named(cell.policy), cell.workers, cell.slots, cell.seed, cell.rounds, cell.foresight,
            cell.full, watch,
        )  # fmt: skip
        self.found[cell.key()] = metrics
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"cell": cell.key(), "metrics": metrics.figures()}, ensure_ascii=False) + "\n")
