"""The picture in the README: two shipped examples under today's rule, and under the certified plan.

python benchmarks/draw_before_and_after.py [docs/before-and-after.png]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

import equipoise as eq
from equipoise.solvers.baselines import compare

mpl.use("Agg")
from matplotlib import pyplot as plt

EXAMPLES = Path(eq.__file__).parent / "specs" / "examples"
TODAY, PLAN, LIMIT = "#c9683c", "#2f6f8f", "#444444"


def bars(axes: Any, today: Any, plan: Any, limit: float, labels: tuple[str, str, str], title: str, unit: str) -> None:
    """Loads side by side, heaviest first under today's rule, with the level that matters."""
    order = np.argsort(-today, kind="stable")
    place = np.arange(len(order))
    axes.bar(place - 0.21, today[order], 0.4, color=TODAY, label=labels[0])
    axes.bar(place + 0.21, plan[order], 0.4, color=PLAN, label=labels[1])
    axes.axhline(limit, color=LIMIT, linewidth=1, linestyle="--", label=labels[2])
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel(unit)
    axes.set_xticks(place, [str(number) for number in order], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def main(path: Path) -> None:
    """Solve both examples and draw them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), constrained_layout=True)

    router: Any = eq.load(EXAMPLES / "expert_assignment.yaml")
    plan: Any = eq.solve(router, "exact")
    topk = next(rule for rule in compare(router, plan) if rule.name == "top-k")
    places = len(router.scores) * router.experts_per_token / router.scores.shape[1]
    before: Any = topk.plan
    title = f"1,024 tokens on 16 experts: max load {before.load.max()} → {plan.load.max()}, proven optimal"
    bars(left, before.load, plan.load, places, ("top-k", "plan", "capacity"), title, "tokens")
    left.set_xlabel("expert")

    step: Any = eq.load(EXAMPLES / "decode_allocation.yaml")
    plan = eq.solve(step, "exact")
    fcfs = next(rule for rule in compare(step, plan) if rule.name.startswith("first come"))
    before = fcfs.plan
    labels = ("first come, first served", "plan", "heaviest under the plan")
    shorter = 1 - plan.certificate.objective / fcfs.objective
    title = f"One decode step on 16 workers: {shorter:.1%} less step time, proven optimal"
    now, then = before.load[:, 0] / 1e3, plan.load[:, 0] / 1e3
    bars(right, now, then, then.max(), labels, title, "resident tokens, thousands")
    right.set_xlabel("worker")
    right.set_ylim(0, 1.25 * now.max())  # room for the legend

    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/before-and-after.png"))
