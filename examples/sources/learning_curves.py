"""Which data should be collected next? Sixteen groups of a data-collection task, from real learning curves.

The source is LCDB 1.1 (arXiv 2505.15657, CC BY 4.0): test error against training-set size. `--curves` takes
one CSV with the columns dataset, learner, samples, error_mean, error_stderr, a row per anchor (a training-set
size), averaged over the source's repetitions; `specs/examples/data/README.md` says where the source is.

The draw is seeded and is not steered towards any shape of curve: data sets are shuffled, each gets one
learner, and the first sixteen pairings that qualify become the groups, named after their data sets. A pairing
qualifies if its anchors are distinct (two data sets can share a name), start by 16 samples and reach at least
1,000. Each group has collected as many samples as an anchor between 64 and 256, and has observed its error at
every anchor up to there; the rest of its curve is what remains to be bought.

The script prints which whole curves are ill-behaved, and fails if fewer than four are:
- rising: some later anchor is worse than an earlier one (non-monotone);
- peaking: such a rise, from which a still later anchor recovers;
- not convex: some anchor lies above the chord between one before and one after it.
Each comparison must exceed 4 standard errors and 0.01 in error rate, so that noise alone does not count.
"""

import argparse
import csv
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parents[2] / "specs" / "examples" / "data"
SEED = 11
GROUPS = 16
LEAST_ILL_BEHAVED = 4
FIRST_ANCHOR, LEAST_LAST_ANCHOR = 16, 1_000
COLLECTED = (64, 256)  # samples, both ends included
COSTS = (1.0, 1.5, 2.0, 2.5)  # per sample
STDERR_FLOOR = 1e-4  # the source's last decimal: a few anchors have no spread between repetitions at all
SIGNIFICANT, RELEVANT = 4.0, 0.01  # standard errors; error rate


@dataclass(frozen=True)
class Curve:
    """One learner on one data set: test error (mean, standard error) at each anchor, anchors ascending."""

    dataset: str
    learner: str
    samples: NDArray[np.int64]
    loss: NDArray[np.float64]
    stderr: NDArray[np.float64]

    def qualifies(self) -> bool:
        """Distinct anchors, early enough to be observed and late enough to leave something to buy."""
        distinct = len(set(self.samples.tolist())) == len(self.samples)
        return distinct and self.samples[0] <= FIRST_ANCHOR and self.samples[-1] >= LEAST_LAST_ANCHOR

    def faults(self) -> list[str]:
        """In which ways the whole curve breaks the picture of a falling, convex curve; empty if in none."""
        earlier, later = np.triu_indices(len(self.samples), k=1)
        change = self.loss[later] - self.loss[earlier]
        noise = np.hypot(self.stderr[later], self.stderr[earlier])
        rising = _stands_out(change, noise)
        falling = _stands_out(-change, noise)
        faults = ["rising"] if rising.any() else []
        if np.isin(later[rising], earlier[falling]).any():
            faults.append("peaking")
        if self._above_a_chord():
            faults.append("not convex")
        return faults

    def _above_a_chord(self) -> bool:
        for middle in range(1, len(self.samples) - 1):
            before, after = np.ix_(range(middle), range(middle + 1, len(self.samples)))
            share = (self.samples[after] - self.samples[middle]) / (self.samples[after] - self.samples[before])
            chord = share * self.loss[before] + (1 - share) * self.loss[after]
            chord_noise = np.hypot(share * self.stderr[before], (1 - share) * self.stderr[after])
            if _stands_out(self.loss[middle] - chord, np.hypot(self.stderr[middle], chord_noise)).any():
                return True
        return False


def _stands_out(difference: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (difference > SIGNIFICANT * noise) & (difference > RELEVANT)


def read_curves(path: Path) -> dict[str, list[Curve]]:
    """The curves of each data set; data sets and learners in alphabetical order."""
    anchors: dict[tuple[str, str], list[tuple[int, float, float]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            anchor = int(row["samples"]), float(row["error_mean"]), float(row["error_stderr"])
            anchors[row["dataset"], row["learner"]].append(anchor)
    curves: dict[str, list[Curve]] = defaultdict(list)
    for (dataset, learner), points in sorted(anchors.items()):
        samples, loss, stderr = (np.array(column) for column in zip(*sorted(points), strict=True))
        curves[dataset].append(Curve(dataset, learner, samples, loss, np.maximum(stderr, STDERR_FLOOR)))
    return dict(curves)


def draw_groups(curves: dict[str, list[Curve]], rng: np.random.Generator) -> list[Curve]:
    """One learner for each data set, then the first qualifying pairings of a shuffle."""
    shuffled = rng.permutation(sorted(curves))
    pairings = [curves[dataset][rng.integers(len(curves[dataset]))] for dataset in shuffled]
    return [curve for curve in pairings if curve.qualifies()][:GROUPS]


def write_table(path: Path, header: list[str], rows: Iterable[tuple[object, ...]]) -> None:
    """A CSV that is either whole or not there."""
    partial = path.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, required=True, help="LCDB 1.1 as one CSV, see above")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the two tables")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    chosen = draw_groups(read_curves(options.curves), rng)
    faults = {curve.dataset: curve.faults() for curve in chosen}
    if len(chosen) < GROUPS or sum(map(bool, faults.values())) < LEAST_ILL_BEHAVED:
        parser.error(f"wants {GROUPS} groups, {LEAST_ILL_BEHAVED} of them ill-behaved, but drew {faults}")

    groups: list[tuple[object, ...]] = []
    observations: list[tuple[object, ...]] = []
    for curve in chosen:
        within = (curve.samples >= COLLECTED[0]) & (curve.samples <= COLLECTED[1])
        collected = int(rng.choice(curve.samples[within]))
        groups.append((curve.dataset, collected, rng.choice(COSTS), int(curve.samples[-1]) - collected))
        for samples, loss, stderr in zip(curve.samples, curve.loss, curve.stderr, strict=True):
            if samples <= collected:
                observations.append((curve.dataset, samples, f"{loss:.4f}", f"{stderr:.4f}"))
        shape = ", ".join(faults[curve.dataset]) or "well-behaved"
        print(f"{curve.dataset:<36} {curve.learner:<20} {collected:>4} collected  {shape}")

    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / "learning_curves_groups.csv", ["name", "collected", "cost", "available"], groups)
    header = ["group", "samples", "loss", "stderr"]
    write_table(options.out / "learning_curves_observations.csv", header, observations)


if __name__ == "__main__":
    main()
