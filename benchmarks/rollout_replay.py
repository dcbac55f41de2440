"""Rollout replay: what allotting rollouts is worth when success rates drift and are known from few samples alone.

    python benchmarks/rollout_replay.py [--study policies | rounds] [--policies uniform "fitted prior" …]
        [--regimes mixed hard easy saturated] [--runs 20] [--seed 0] [--steps 6] [--prompts 256] [--each 8] [--least 2]
        [--most 128] [--memory 8] [--drift 0.2] [--json] [--plot replay.png]

Each run has its own prompts. A first epoch gives every prompt as many rollouts; then, step by step, the logits of the
rates take a step of N(0, drift²), every policy allots and draws the same total from what its own history says, and
its history takes in what it drew (see `rollout_world.py`). Measured, as means over steps:

    value     Σ p·(1 − p)² over the groups in which both outcomes occurred, at the true rate p of the step: the value of
              Knapsack RL (arXiv 2509.25849) with the event in place of its probability
    rollouts  the share of the rollouts drawn that lie in such groups (effective-rollout ratio)
    groups    the share of such groups among all
    drawn     rollouts drawn, as a share of the budget
    rounds    how often the policy drew in a step
    plan      milliseconds that a step took, all its plans and draws together (the median over steps)

Values are also given as shares of uniform's and of the one-shot oracle's, run by run, since all policies of a run meet
the same rates and outcomes; ± is 1.96 standard errors over runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))  # a script's own folder, which PYTHONSAFEPATH leaves out
from rollout_policies import STUDIES, Policy, party
from rollout_world import REGIMES, Floats, History, Setting, Step, moments

MEASURES = ("value", "rollouts", "groups", "drawn", "rounds", "plan")
AGAINST = ("uniform", "oracle")


@dataclass(frozen=True)
class Estimate:
    """A mean over runs and half the width of its 95 % interval."""

    mean: float
    spread: float

    @classmethod
    def of(cls, runs: Floats) -> Estimate:
        """The estimate from one number per run."""
        error = runs.std(ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else 0.0
        return cls(float(runs.mean()), 1.96 * float(error))


def replay(setting: Setting, regime: str, seed: int, policies: dict[str, Policy]) -> dict[str, Floats]:
    """One run: for each policy the (steps × MEASURES) numbers."""
    numbers: dict[str, list[list[float]]] = {name: [] for name in policies}
    histories = {name: History(setting.memory) for name in policies}
    for number, moment in enumerate(moments(setting, regime, seed)):
        for name, policy in policies.items():
            if number == 0:
                everyone = np.full(setting.prompts, setting.each)
                histories[name].add(everyone, moment.wins[:, setting.each])
                continue
            random = np.random.default_rng([seed, number])
            step = Step(setting, histories[name].counts(), moment.wins, moment.rates, random)
            started = time.perf_counter()
            policy(step)
            spent = (time.perf_counter() - started) * 1e3
            histories[name].add(step.drawn, step.won)
            measured = [step.value(), step.rollout_share(), step.group_share()]
            numbers[name].append([*measured, step.drawn.sum() / step.total, step.rounds, spent])
    return {name: np.array(rows) for name, rows in numbers.items()}


def summary(runs: Sequence[dict[str, Floats]]) -> dict[str, dict[str, Estimate]]:
    """For each policy the estimate of each measure, and of its value as a share of uniform's and the oracle's."""
    means = {name: np.array([_typical(run[name]) for run in runs]) for name in runs[0]}
    found: dict[str, dict[str, Estimate]] = {}
    for name, table in means.items():
        found[name] = {measure: Estimate.of(table[:, column]) for column, measure in enumerate(MEASURES)}
        for other in AGAINST:
            if other in means:
                found[name][f"of {other}"] = Estimate.of(table[:, 0] / means[other][:, 0])
    return found


def _typical(steps: Floats) -> Floats:
    """The means over steps; of the time the median, since the first step opens a session."""
    return np.append(steps[:, :-1].mean(axis=0), np.median(steps[:, -1]))


def shown(regime: str, found: dict[str, dict[str, Estimate]]) -> Table:
    """The table of one regime."""
    table = Table(title=regime, title_justify="left")
    table.add_column("policy")
    for column in ("value", "of uniform", "of oracle", "rollouts", "groups", "drawn", "rounds", "plan, ms"):
        table.add_column(column, justify="right")
    for name, row in found.items():
        shares = [row.get(f"of {other}") for other in AGAINST]
        value = row["value"]
        table.add_row(
            name,
            f"{value.mean:.3f} ± {value.spread:.3f}",
            *(f"{share.mean:.3f} ± {share.spread:.3f}" if share else "–" for share in shares),
            *(f"{row[measure].mean:.3f}" for measure in ("rollouts", "groups", "drawn")),
            f"{row['rounds'].mean:.1f}",
            f"{row['plan'].mean:.1f}",
            style={"ours": "bold", "oracle": "dim", "peer": ""}[party(name)],
        )
    return table


def draw(results: dict[str, dict[str, dict[str, Estimate]]], path: Path) -> None:
    """Values as shares of the one-shot oracle's with their intervals, policy by policy, a panel per regime."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    names = list(next(iter(results.values())))
    colours = {"ours": "#2f6f8f", "oracle": "#8a8a8a", "peer": "#c9683c"}
    size = (2.9 * len(results) + 2.0, 0.3 * len(names) + 1.5)
    figure, panels = plt.subplots(1, len(results), figsize=size, sharey=True, constrained_layout=True, squeeze=False)
    for panel, (regime, found) in zip(panels[0], results.items(), strict=True):
        panel.axvline(1.0, color="#444444", linewidth=1, linestyle="--")
        for row, name in enumerate(names):
            share, colour = found[name].get("of oracle", found[name]["value"]), colours[party(name)]
            panel.axhline(row, color="#eeeeee", linewidth=1, zorder=0)
            panel.errorbar(share.mean, row, xerr=share.spread, fmt="o", color=colour, markersize=6, linewidth=1.6)
            label = {"xy": (1.02, row), "xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
            panel.annotate(f"{share.mean:.2f}", fontsize=8.5, color=colour, **label)
        panel.set_title(regime, loc="left", fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_yticks(range(len(names)), names)
    panels[0][0].invert_yaxis()
    legend = {"peer": "peers", "ours": "equipoise", "oracle": "knows the rates"}
    marks = [Line2D([], [], marker="o", linestyle="", color=colours[who], label=legend[who]) for who in legend]
    figure.legend(handles=marks, loc="outside lower left", ncols=3, frameon=False, fontsize=8.5)
    figure.supxlabel("value realised, as a share of the one-shot oracle that knows the rates", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Replay, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regimes", nargs="+", choices=list(REGIMES), default=list(REGIMES), metavar="REGIME")
    parser.add_argument("--study", choices=list(STUDIES), default="policies", help="peers and ours, or ours in rounds")
    parser.add_argument("--policies", nargs="+", metavar="POLICY", help="of the study; all if absent")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    for name, default in vars(Setting()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    setting = Setting(**{name: getattr(options, name) for name in vars(Setting())})
    results: dict[str, dict[str, dict[str, Estimate]]] = {}
    made = chosen(options.study, options.policies)
    for regime in options.regimes:
        runs = [
            replay(setting, regime, options.seed + run, {name: make(setting.each) for name, make in made.items()})
            for run in track(range(options.runs), regime, console=Console(stderr=True), disable=options.json)
        ]
        results[regime] = summary(runs)
    if options.plot:
        draw(results, options.plot)
    if options.json:
        print(json.dumps({"setting": vars(setting), "seed": options.seed, "runs": options.runs, "results": results},
                         default=vars))  # fmt: skip
        return
    console = Console(width=150)
    for regime, found in results.items():
        console.print(shown(regime, found))
    console.print(caption(setting, options))


def chosen(study: str, names: Sequence[str] | None) -> dict[str, Callable[[int], Policy]]:
    """The policies to replay. Raises `SystemExit` for one that the study does not have."""
    there = STUDIES[study]
    if unknown := [name for name in names or () if name not in there]:
        raise SystemExit(f"no policy {unknown[0]!r} in the study {study!r}; there are: {', '.join(there)}")
    return {name: there[name] for name in names or there}


def caption(setting: Setting, options: Any) -> str:
    """What the tables rest on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("equipoise", "numpy"))
    return (
        f"{setting.prompts} prompts × {setting.each} rollouts, {setting.least} to {setting.most} each; {setting.steps} "
        f"steps, drift {setting.drift} per step in logit, histories of {setting.memory} and more; {options.runs} runs "
        f"from seed {options.seed}; Python {platform.python_version()}, {packages}"
    )


if __name__ == "__main__":
    main()
