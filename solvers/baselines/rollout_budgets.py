"""Uniform rollouts: what trainers do by default."""

from __future__ import annotations

import numpy as np

from ...specs.rollout_budgets import RolloutBudgets, RolloutPlan
from ..formulations.rollout_budgets import RolloutProgram
from ..program import Integers


def uniform(spec: RolloutBudgets) -> RolloutPlan:
    """The same number of rollouts for every prompt, what is left over going to the first ones."""
    prompts, step = len(spec.prompts), spec.multiple_of
    if not prompts:
        return _plan(spec, np.zeros(0, np.int64))
    if spec.total is not None:
        each, over = divmod(spec.total // step, prompts)
        rungs = np.full(prompts, each) + (np.arange(prompts) < over)
    else:
        tokens = 0.0 if spec.prompts.tokens is None else float(spec.prompts.tokens.sum())
        rungs = np.full(prompts, int((spec.token_budget or 0.0) // (tokens * step)))
    return _plan(spec, rungs * step)


def _plan(spec: RolloutBudgets, rollouts: Integers) -> RolloutPlan:
    drawn = np.zeros(len(rollouts), np.int64) if spec.prompts.drawn is None else spec.prompts.drawn
    allowed = np.clip(rollouts, np.maximum(drawn, spec.least), spec.most)
    return RolloutProgram(spec).report(allowed // spec.multiple_of)


BASELINES = {"uniform": uniform}
