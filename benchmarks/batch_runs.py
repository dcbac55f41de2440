"""Batches for the benchmarks: mixed specs as JSON lines, and `equipoise batch` run on them and watched from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from instances import collection_budgets, decode_allocation, expert_assignment, rollout_budgets

import equipoise as eq
from equipoise.solvers.records import line

LIGHT_MS, HEAVY_MS = 0.2, 11.5
"""Mean solve times of the light and the heavy specs, about: what `mean_ms` of `documents` goes by."""
TICK = 0.05
"""Seconds between two looks at a run."""
_HERTZ, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def decode_with_caches(seed: int) -> Any:
    """Six requests for three workers of unlike speed whose caches may be too small: it takes a search."""
    random = np.random.default_rng(seed)
    return eq.DecodeAllocation(
        workers={"slots": [4, 4, 4], "kv_capacity": random.integers(6000, 12000, 3), "speed": [1.0, 0.8, 1.0]},
        active={
            "worker": random.permutation(np.repeat(np.arange(3), 2)),
            "tokens": random.lognormal(6.6, 1.0, 6).astype(int) + 1,
            "remaining": random.geometric(1 / 200, 6),
        },
        waiting={
            "tokens": random.lognormal(6.6, 1.0, 6).astype(int) + 1,
            "remaining": random.geometric(1 / 200, 6),
            "waited": np.arange(6)[::-1],
        },
        horizon=[0, 4, 16, 64, 256, 1024],
    )


def collection_with_shares(seed: int) -> Any:
    """Four groups, each with a least share of what is bought: it takes the compiled program."""
    spec = collection_budgets(4, seed)
    return spec.replace(lot=50, groups=spec.fields()["groups"] | {"least_share": [0.125] * 4})


LIGHT: tuple[Callable[[int], Any], ...] = (
    lambda seed: expert_assignment(16, 4, 2, 1.0, seed),
    lambda seed: decode_allocation(8, 16, 6, 16, seed).replace(horizon=[0]),
    lambda seed: rollout_budgets(16, 8, seed),
    lambda seed: collection_budgets(4, seed),
)
HEAVY: tuple[Callable[[int], Any], ...] = (decode_with_caches, collection_with_shares)


def documents(count: int, mean_ms: float, seed: int) -> Iterator[str]:
    """Specs of all four kinds in turn as JSON, and among them as many that take a search as bring the mean solve time
    to about `mean_ms`."""
    random = np.random.default_rng(seed)
    heavy = random.random(count) < (mean_ms - LIGHT_MS) / (HEAVY_MS - LIGHT_MS)
    for number in range(count):
        makers = HEAVY if heavy[number] else LIGHT
        spec = makers[number % len(makers)](seed + number)
        yield line(spec.replace(name=f"spec {number}").fields())


def write_documents(path: Path, count: int, mean_ms: float, seed: int) -> None:
    """The same as a file of JSON lines."""
    with path.open("w") as file:
        file.writelines(f"{document}\n" for document in documents(count, mean_ms, seed))


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a driver. at, cpu: seconds since it was started, and that it has used. resident: bytes of its
    memory. written: bytes of the output."""

    at: float
    cpu: float
    resident: int
    written: int


@dataclass
class Run:
    """One run of `equipoise batch`. code: its exit code, negative where a signal ended it. wall: seconds, the start of
    Python included. summary: what `--json` printed."""

    code: int
    wall: float
    looks: list[Look] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def solving(self) -> float:
        """Certificates' seconds, all together."""
        return sum(kind["seconds_total"] for kind in self.summary["kinds"].values())

    @property
    def working(self) -> float:
        """Seconds from the first result to the last, as far as looks can tell."""
        written = [look for look in self.looks if look.written]
        last = next(look for look in written if look.written == written[-1].written)
        return last.at - written[0].at

    @property
    def cpu(self) -> float:
        """Seconds of a core that the driver used."""
        return self.looks[-1].cpu

    def resident_at(self, share: float) -> int:
        """Bytes of the driver's memory when this share of the output was written."""
        return next(look.resident for look in self.looks if look.written >= share * self.looks[-1].written)

    @property
    def peak(self) -> int:
        """Bytes of the driver's memory, at most."""
        return max(look.resident for look in self.looks)


def run_batch(
    source: Path | str,
    out: Path,
    *options: str,
    until: Callable[[Look, int], bool] = lambda look, pid: False,
    stdin: IO[bytes] | None = None,
) -> Run:
    """Run `equipoise batch SOURCE -o OUT` to its end; or kill it as `kill -9` does once `until` says so of a look."""
    command = [sys.executable, "-P", "-m", "equipoise", "batch", str(source), "-o", str(out), "--json", *options]
    began = time.perf_counter()
    with (
        open(f"{out}.log", "w") as log,
        subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=log, text=True) as driver,
    ):
        looks = list[Look]()
        while driver.poll() is None:
            look = _look(driver.pid, out, time.perf_counter() - began)
            if look is not None:
                looks.append(look)
                if until(look, driver.pid):
                    driver.send_signal(signal.SIGKILL)
                    driver.wait()
                    break
            time.sleep(TICK)
        wall = time.perf_counter() - began
        assert driver.stdout is not None
        said = driver.stdout.read()
    if not said and driver.returncode >= 0:
        raise RuntimeError(f"{' '.join(command)} ended with {driver.returncode}: {Path(f'{out}.log').read_text()}")
    return Run(driver.returncode, wall, looks, json.loads(said) if said else {})


def _look(pid: int, out: Path, at: float) -> Look | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / _HERTZ
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):  # it has just ended
        return None
    if not resident:  # a zombie
        return None
    part = Path(f"{out}.part.jsonl")
    written = next((file.stat().st_size for file in (part, out) if file.exists()), 0)
    return Look(at, cpu, resident, written)


def descendants(pid: int) -> Iterator[int]:
    """The processes below one, whoever started them."""
    children = dict[int, list[int]]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        yield from below
        pending += below


def results(out: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The lines of an output by place, without the seconds that a solve took. Raises `ValueError` where one is there
    twice."""
    there = dict[tuple[Any, ...], dict[str, Any]]()
    for text in out.read_text().splitlines():
        document = json.loads(text)
        place = document["file"], document.get("line"), json.dumps(document.get("sweep"))
        if place in there:
            raise ValueError(f"{out}: {place} is there twice")
        document["certificate"].pop("seconds")
        there[place] = document
    return there
