"""One seed: a policy is warmed up by examples, and trained on from there by GRPO under each way to budget rollouts.

GRPO (DeepSeekMath, arXiv 2402.03300) with one update per batch, in which its ratio is 1 and its clip idle, and without
the term that holds the policy near the first one. A sample's weight does not depend on the length of its answer.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from loop import client

import equipoise as eq
from equipoise.kernels.groups import group_advantages, repeat_by_budget

from .budgets import UNIFORM, Budgets, History, Step
from .model import Policy
from .tasks import Tasks, draw, encode

EXAMPLES = 256
"""In a batch of the warm-up."""
WARMING_RATE = 3e-3
"""Learning rate of the warm-up."""


@dataclass
class Run:
    """What one run showed.

    rounds: UNIFORM, or in how many a step was drawn. judged: (rollouts used, mean probability of the right answer over
    held-out questions). groups, rollouts: of each step the share of groups with a gradient, and of rollouts in those.
    seconds, planning: of each step, and the part in which it was planned. gap: the largest of the plans' certificates;
    nan where no plan was asked for.
    """

    seed: int
    rounds: int
    judged: list[tuple[int, float]] = field(default_factory=list)
    groups: list[float] = field(default_factory=list)
    rollouts: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    planning: list[float] = field(default_factory=list)
    gap: float = math.nan


@dataclass(frozen=True)
class Start:
    """What all runs of a seed share: the policy after its warm-up, questions to train on, and questions held out."""

    seed: int
    policy: Policy
    pool: Tasks
    held: Tasks


def train(seed: int, options: Namespace) -> list[Run]:
    """The runs of one seed, each from the same policy, with the same questions in every step."""
    torch.set_num_threads(options.threads)
    start = _start(seed, options)
    with client(options.server) as service:
        return [_run(start, service, rounds, options) for rounds in (UNIFORM, *sorted(set(options.rounds)))]


def _start(seed: int, options: Namespace) -> Start:
    random = np.random.default_rng([seed, 0])
    torch.manual_seed(seed)
    held = set(draw(random, options.held, options.longest))
    pool = draw(random, options.pool, options.longest, held)
    policy = Policy(options.width).to(options.device)
    optimizer = torch.optim.Adam(policy.parameters(), lr=WARMING_RATE)
    for _ in range(options.warm_up):
        examples = encode(draw(random, EXAMPLES, options.longest, held), options.longest, options.device)
        loss = -policy.log_likelihood(policy.read(examples.questions), examples.answers).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Start(
        seed,
        policy,
        encode(pool, options.longest, options.device),
        encode(sorted(held), options.longest, options.device),
    )


def _run(start: Start, service: eq.Client, rounds: int, options: Namespace) -> Run:
    run, policy = Run(start.seed, rounds), Policy(options.width).to(options.device)
    policy.load_state_dict(start.policy.state_dict())
    optimizer = torch.optim.Adam(policy.parameters(), lr=options.rate)
    generator = torch.Generator(options.device).manual_seed(start.seed)
    history = History(len(start.pool), options.memory)
    budgets = Budgets(service, rounds, options.prompts, options.rollouts, options.least, options.most)
    for number, rows in enumerate(_batches(start, options)):
        if number % options.judge_every == 0:
            run.judged.append((number * options.prompts * options.rollouts, _judge(policy, start.held)))
        started = _now(options.device)
        step, planning = history.step(rows), 0.0
        drawn = Drawn(start.pool.take(rows))
        for part in range(max(rounds, 1)):
            asked = time.perf_counter()
            counts = budgets.counts(part, step)
            planning += time.perf_counter() - asked
            drawn.extend(policy, step, counts, generator)
        drawn.teach(policy, optimizer, step, options.weigh)
        run.seconds.append(_now(options.device) - started)
        run.planning.append(planning)
        history.add(rows, step)
        run.groups.append(float(step.mixed.mean()))
        run.rollouts.append(float(step.drawn[step.mixed].sum() / step.drawn.sum()))
    run.judged.append((options.steps * options.prompts * options.rollouts, _judge(policy, start.held)))
    run.gap = budgets.gap if rounds != UNIFORM else math.nan
    budgets.close()
    return run


class Drawn:
    """The rollouts of a step: its tasks, and the answers to them, round by round."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        self.parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def extend(self, policy: Policy, step: Step, counts: np.ndarray, generator: torch.Generator) -> None:
        """Draw until each prompt has `counts` in all, verify the answers, and note in the step what came out."""
        further = counts - step.drawn
        if not (total := int(further.sum())):
            return
        states = policy.read(self.tasks.questions)
        repeated, prompt = repeat_by_budget(states, torch.from_numpy(further).to(states.device), total)
        answers = policy.sample(repeated, self.tasks.answers.shape[1], generator)
        right = (answers == self.tasks.answers[prompt]).all(1)
        self.parts.append((prompt, answers, right))
        step.won += torch.bincount(prompt[right], minlength=len(counts)).cpu().numpy()
        step.drawn += further

    def teach(self, policy: Policy, optimizer: torch.optim.Optimizer, step: Step, weigh: str) -> None:
        """One update: better than the others of its group is made likelier."""
        prompt, answers, right = map(torch.cat, zip(*self.parts, strict=True))
        order = prompt.argsort(stable=True)
        states = policy.read(self.tasks.questions)
        counts = torch.from_numpy(step.drawn).to(states.device)
        repeated, prompt = repeat_by_budget(states, counts, len(order))
        advantages = group_advantages(right[order].to(states.dtype), prompt, len(counts))
        share = 1 / len(order) if weigh == "rollouts" else 1 / (len(counts) * counts[prompt])
        loss = -(advantages * share * policy.log_likelihood(repeated, answers[order])).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()


def _batches(start: Start, options: Namespace) -> Iterator[np.ndarray]:
    """The rows of each step's questions: epochs over the pool, in ever new orders; a rest too small is left out."""
    random, waiting = np.random.default_rng([start.seed, 1]), np.zeros(0, np.int64)
    for _ in range(options.steps):
        if len(waiting) < options.prompts:
            waiting = random.permutation(len(start.pool))
        yield waiting[: options.prompts]
        waiting = waiting[options.prompts :]


@torch.no_grad()
def _judge(policy: Policy, tasks: Tasks) -> float:
    """What sampling would reach on average, without the noise of it: each question has one right answer."""
    return float(policy.log_likelihood(policy.read(tasks.questions), tasks.answers).exp().mean())


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()
