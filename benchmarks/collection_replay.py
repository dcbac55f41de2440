"""Collection replay: buy data, observe, fit, buy again, on real learning curves; what the estimate is worth.

    python benchmarks/collection_replay.py --curves lcdb11.csv [--draws 40] [--seed 1] [--rounds 6] [--groups 12]
        [--budget 6000] [--lot 10] [--points 6] [--noise 1] [--keep] [--least-end 1000] [--untouched]
        [--policies TEXT …] [--json]

A draw takes so many data sets, one learner each, 32 to 128 samples of each to start, and a budget in samples. In every
round a policy sees noisy errors at a few sizes up to what it holds (see `collection_world.py` for the noise), buys, and
is judged at the end by the true errors. `rounds` plans each part of the budget alone; `rounds ahead` plans for all that
is left, and buys a part of that. Measured, as means over draws:

    mean     error over the groups
    worst    the largest error of a group
    share    of what the oracle of the mean gains over equal buying, in the mean error (ratio of means)
    ms       a decision, fit and plan together (the mean)

± is half the 95 % interval of the mean over draws, of `share` that of a bootstrap over draws (2,000, seeded). All
policies of a draw meet the same curves and, at the same time, the same noise. `--untouched` keeps to the data sets on
which nothing of our estimator was chosen (with `--least-end 500`, or too few are left).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))  # a script's own folder, which PYTHONSAFEPATH leaves out
from collection_policies import Policy, party
from collection_world import UNTOUCHED, Draw, Floats, Setting, draws, read

RESAMPLES = 2000
"""Bootstrap samples of the draws."""
EQUAL, ORACLE = "equal", "oracle, mean"
"""What a share is measured between."""


@dataclass(frozen=True)
class Row:
    """What one policy reached: means over draws, and half the widths of their 95 % intervals."""

    policy: str
    mean: float
    mean_spread: float
    worst: float
    worst_spread: float
    share: float
    share_low: float
    share_high: float
    milliseconds: float


def replay(policies: list[Policy], made: list[Draw], setting: Setting, quiet: bool) -> dict[str, tuple[Floats, float]]:
    """(draws × groups) true errors at the end, and seconds per decision, of each policy."""
    found: dict[str, tuple[Floats, float]] = {}
    for policy in track(policies, "policies", disable=quiet, console=Console(stderr=True)):
        policy.play(made[0], setting)  # imports are not what we measure
        started = time.perf_counter()
        errors = np.array([policy.play(draw, setting) for draw in made])
        found[policy.name] = errors, (time.perf_counter() - started) / (len(made) * policy.rounds)
    return found


def rows(found: dict[str, tuple[Floats, float]], seed: int) -> list[Row]:
    """The table of a replay."""
    equal, oracle = (found[name][0].mean(axis=1) for name in (EQUAL, ORACLE))
    again = np.random.default_rng(seed).integers(len(equal), size=(RESAMPLES, len(equal)))
    made = list[Row]()
    for name, (errors, seconds) in found.items():
        mean, worst = errors.mean(axis=1), errors.max(axis=1)
        low, high = np.quantile(shares(equal[again], mean[again], oracle[again]), [0.025, 0.975])
        share = float(shares(equal, mean, oracle))
        made.append(
            Row(name, *_estimate(mean), *_estimate(worst), share, float(low), float(high), 1e3 * seconds)
        )  # fmt: skip
    return made


def shares(equal: Floats, reached: Floats, oracle: Floats) -> Floats:
    """Ratios of mean gains over the last axis; nan where the oracle gains nothing."""
    gain, most = (equal - reached).mean(axis=-1), (equal - oracle).mean(axis=-1)
    return np.divide(gain, most, out=np.full(np.shape(most), np.nan), where=most > 0)


def _estimate(values: Floats) -> tuple[float, float]:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), 1.96 * float(error)


def shown(table: list[Row], title: str) -> Table:
    """The rows for people."""
    caption = f"Python {platform.python_version()}, equipoise {version('equipoise')}, numpy {version('numpy')}"
    made = Table("policy", "mean", "worst", "share", "95 %", "ms", title=title, caption=caption)
    for column in made.columns[1:]:
        column.justify = "right"
    for row in table:
        made.add_row(
            row.policy, f"{row.mean:.4f} ± {row.mean_spread:.4f}", f"{row.worst:.3f} ± {row.worst_spread:.3f}",
            f"{row.share:.0%}", f"{row.share_low:.0%} … {row.share_high:.0%}", f"{row.milliseconds:.1f}",
        )  # fmt: skip
    return made


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, required=True, help="CSV: dataset, learner, samples, error_mean, …")
    for name, default in (("draws", 40), ("seed", 1), ("rounds", 6), ("groups", 12), ("budget", 6000), ("lot", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--points", type=int, default=6)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--keep", action="store_true", help="observations of earlier rounds stay")
    parser.add_argument("--least-end", type=int, default=1000, help="size that a curve must reach")
    parser.add_argument("--untouched", action="store_true", help="data sets on which nothing was chosen")
    parser.add_argument("--policies", nargs="*", help="only those whose names hold one of these texts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in ("draws", "rounds", "groups", "lot", "points"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if options.budget // options.lot < options.rounds:
        parser.error(f"a budget of {options.budget} buys fewer than {options.rounds} lots of {options.lot}")
    if options.noise < 0 or options.seed < 0:
        parser.error("--noise and --seed must be at least 0")
    if not options.curves.is_file():
        parser.error(f"there is no file {options.curves}")
    return options


def main() -> None:
    """Replay and print."""
    options = arguments()
    setting = Setting(
        options.groups, options.budget, options.lot, options.points, options.noise, options.keep
    )  # fmt: skip
    curves = read(options.curves, options.least_end, UNTOUCHED if options.untouched else None)
    if len(curves) < setting.groups:
        sys.exit(f"{len(curves)} data sets qualify, and {setting.groups} groups are drawn from them")
    made = draws(curves, setting, options.draws, options.seed)
    wanted = options.policies
    policies = [
        policy
        for policy in party(options.rounds)
        if wanted is None or policy.name in (EQUAL, ORACLE) or any(text in policy.name for text in wanted)
    ]
    table = rows(replay(policies, made, setting, options.json), options.seed)
    if options.json:
        head = {"setting": asdict(setting), "seed": options.seed, "draws": options.draws, "rounds": options.rounds}
        print(json.dumps({**head, "data_sets": sorted(curves), "rows": [asdict(row) for row in table]}))
        return
    title = (
        f"{len(made)} draws of {setting.groups} from {len(curves)} data sets, {setting.budget} samples in "
        f"{options.rounds} rounds, {setting.points} points"
    )
    Console(width=120).print(shown(table, title))


if __name__ == "__main__":
    main()
