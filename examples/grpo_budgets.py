"""Do rollout budgets help reinforcement learning? GRPO with equal budgets, with planned ones, and with plans in rounds.

    python examples/grpo_budgets.py [--server ADDRESS] [--device cuda --width 512 --prompts 512 --rollouts 16 …]

A tiny recurrent policy reverses and sorts strings of digits, 2 to --longest of them: the reward is 1 for the one right
answer, else 0. A short warm-up on examples leaves success rates spread from 0 to 1. From there it is trained by GRPO,
every step with as many rollouts, which are shared out

    uniform             the same number to each prompt
    planned, 1 round    by `eq.RolloutBudgets`, from what each prompt's latest rollouts showed
    planned, 3 rounds   half of them evenly, the others by two more plans, each from what this step has shown so far

The plans come from the client: in this process, or at a service with `--server`. All runs of a seed share their
warm-up, and the questions of every step. Rollouts and advantages follow the plan by the operators
`repeat_by_budget` and `group_advantages`.

Success is the mean probability of the right answer over questions held out, computed rather than sampled. "On the way"
is its mean over all judgements. Groups have a gradient where rollouts of both outcomes are in them. ms/step and
planning: the median step of each run. Intervals are of 95 % over the seeds (Student's t); differences from uniform are
taken seed by seed. A group that is drawn until it shows both outcomes has a biased mean: what that does to learning is
in the rewards shown. In an update every group weighs the same, as in GRPO, or every rollout (--weigh rollouts).
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parent))  # a script's own folder, which PYTHONSAFEPATH leaves out
from grpo.report import draw, outcomes, tell
from grpo.tasks import possible
from grpo.training import EXAMPLES, train
from loop import each, parser


def flags() -> ArgumentParser:
    """The flags of this loop, besides those that every loop has."""
    asked = parser(
        "Train by GRPO with rollouts shared out evenly, and by plans in one round and in several.", "grpo_budgets.png"
    )
    asked.add_argument(
        "--rounds", nargs="+", type=_at_least(1), default=[1, 3], help="of planned steps; a comparison for each"
    )
    asked.add_argument("--width", type=_at_least(1), default=64, help="of the policy")
    asked.add_argument("--longest", type=_at_least(2), default=8, help="digits of the hardest questions")
    asked.add_argument(
        "--warm-up", type=_at_least(0), default=150, help=f"batches of {EXAMPLES} examples before the first rollout"
    )
    asked.add_argument("--steps", type=_at_least(1), default=150)
    asked.add_argument("--prompts", type=_at_least(1), default=64, help="in one step")
    asked.add_argument("--rollouts", type=_at_least(1), default=8, help="per prompt, on average")
    asked.add_argument("--least", type=_at_least(0), default=2, help="rollouts of a prompt")
    asked.add_argument("--most", type=_at_least(1), default=64, help="rollouts of a prompt")
    asked.add_argument("--memory", type=_at_least(1), default=16, help="rollouts that a prompt's history goes back for")
    asked.add_argument(
        "--pool", type=_at_least(1), default=512, help="questions that are trained on, epoch after epoch"
    )
    asked.add_argument("--held", type=_at_least(1), default=1024, help="questions that are held out")
    asked.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    asked.add_argument("--weigh", choices=["prompts", "rollouts"], default="prompts", help="what weighs the same")
    asked.add_argument("--judge-every", type=_at_least(1), default=15, help="steps between two judgements")
    asked.add_argument("--workers", type=_at_least(1), help="seeds at a time; if absent one per core, on a GPU one")
    asked.add_argument("--threads", type=_at_least(1), default=1, help="of torch in a worker")
    asked.set_defaults(seeds=8)
    return asked


def main() -> None:
    """Run, compare, draw."""
    asked = flags()
    options = asked.parse_args()
    if wrong := _wrong(options):
        asked.error(wrong)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    seeds = track(each(train, range(options.seeds), options), "training", options.seeds, console=Console(stderr=True))
    found = outcomes(run for runs in seeds for run in runs)
    tell(found, options, console)
    draw(found, options.out)


def _at_least(least: int) -> Callable[[str], int]:
    """A whole number that is not too small, read from a flag."""

    def read(given: str) -> int:
        if (number := int(given)) < least:
            raise ArgumentTypeError(f"must be at least {least}, got {number}")
        return number

    read.__name__ = "whole number"  # what argparse calls it
    return read


def _wrong(options: Namespace) -> str:
    """What is wrong with the flags taken together; empty if nothing is."""
    if options.seeds < 1:
        return f"--seeds: must be at least 1, got {options.seeds}"
    if not options.least <= options.rollouts <= options.most:
        return f"--rollouts: must be from --least {options.least} to --most {options.most}, got {options.rollouts}"
    if options.pool < options.prompts:
        return f"--pool: must be at least --prompts, {options.prompts}, got {options.pool}"
    if 2 * (options.pool + options.held + EXAMPLES) > possible(options.longest):
        return (
            f"--longest: {options.longest} digits have only {possible(options.longest)} questions, half of which "
            f"--pool, --held and a batch of {EXAMPLES} examples may take together"
        )
    return ""


if __name__ == "__main__":
    main()
