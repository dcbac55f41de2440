"""One run: a model trained with one way to balance its experts, and what was seen on the way."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from loop import client
from torch import Tensor
from torch.nn import functional

import equipoise as eq
from equipoise.kernels.router import Balance, BalancedRouter

from .data import Text, batch
from .model import BYTES, Model

Method = Balance | Literal["exact"]
METHODS: tuple[Method, ...] = (*get_args(Balance), "exact")
"""What `BalancedRouter` knows, and the exact plan."""
WARMING = 10
"""Steps in which the learning rate rises; it then falls to a tenth along a cosine."""


@dataclass(frozen=True)
class Task:
    """What to run: a method, with so many experts, from one seed."""

    method: Method
    experts: int
    seed: int


@dataclass
class Run:
    """What one run showed.

    judged: (step, validation loss in nats per byte). violation: (steps, layers) max load / mean load − 1 of what the
    tokens chose. seconds: per step. dropped, due: choices without a place, and all there were. gap: the largest of
    the plans' certificates; nan where no plan was asked for.
    """

    task: Task
    judged: list[tuple[int, float]] = field(default_factory=list)
    violation: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    dropped: int = 0
    due: int = 0
    gap: float = math.nan


class PlannedRouter(BalancedRouter):
    """A router that asks for the optimal assignment of each training batch, at its exact capacities.

    gap: the largest of the certificates so far.
    """

    def __init__(self, width: int, experts: int, k: int, session: eq.ClientSession) -> None:
        super().__init__(width, experts, k, balance="none")
        self.session = session
        self.gap = 0.0

    def choose(self, scores: Tensor, valid: Tensor | None) -> Tensor:
        """The plan's experts; when no longer training, those by the last plan's prices."""
        if not self.training:
            return super().choose(scores, valid)
        plan = self.session.step(scores=scores.cpu().numpy())
        self.gap = max(self.gap, plan.certificate.gap)
        self.prices.copy_(torch.tensor(plan.prices))
        return torch.tensor(plan.experts, device=scores.device)


def train(task: Task, options: Namespace) -> Run:
    """Run one task; equal seeds start from equal models and see the same text, whatever the method."""
    torch.set_num_threads(options.threads)
    text = Text.read(options.device)
    with ExitStack() as stack:
        torch.manual_seed(task.seed)
        router = _routers(task, options, stack)
        model = Model(options.width, options.layers, options.heads, options.hidden, options.context, router)
        return _loop(Run(task), model.to(options.device), text, options)


def _routers(task: Task, options: Namespace, stack: ExitStack) -> Callable[[], BalancedRouter]:
    """Makes the router of a layer; sessions stay open until the stack is closed."""
    method = task.method
    if method != "exact":
        factor = None if method == "capped" or math.isinf(options.capacity_factor) else options.capacity_factor
        return lambda: BalancedRouter(
            options.width,
            task.experts,
            options.k,
            balance=method,
            capacity_factor=factor,
            step=options.bias_step,
            coefficient=options.coefficient,
        )
    service = stack.enter_context(client(options.server))
    nothing = eq.ExpertAssignment(scores=np.zeros((options.tokens, task.experts)), experts_per_token=options.k)
    return lambda: PlannedRouter(
        options.width, task.experts, options.k, stack.enter_context(service.session(nothing, timeout=60))
    )


def _loop(run: Run, model: Model, text: Text, options: Namespace) -> Run:
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, options.steps))
    rows = options.tokens // options.context
    drawn = torch.Generator().manual_seed(run.task.seed)
    loads, dropped = [], torch.zeros((), dtype=torch.int64, device=options.device)
    for step in range(1, options.steps + 1):
        source, target = batch(text.training, rows, options.context, drawn)
        started = _now(options.device)
        loss = _loss(model(source), target) + sum(routed.auxiliary for routed in model.routed())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        run.seconds.append(_now(options.device) - started)
        loads.append(torch.stack([routed.load for routed in model.routed()]))
        dropped += sum(routed.dropped for routed in model.routed())
        if step % options.judge_every == 0 or step == options.steps:
            run.judged.append((step, _judge(model, text, options)))
    load = torch.stack(loads).double()  # (steps, layers, experts)
    run.violation = (load.amax(2) / load.mean(2).clamp(min=1e-9) - 1).tolist()
    run.dropped, run.due = int(dropped), options.steps * options.layers * options.tokens * options.k
    gaps = [router.gap for router in model.modules() if isinstance(router, PlannedRouter)]
    run.gap = max(gaps, default=math.nan)
    return run


@torch.no_grad()
def _judge(model: Model, text: Text, options: Namespace) -> float:
    """Loss over the same stretches of validation text every time; prices stand still, and nothing is dropped."""
    model.eval()
    drawn = torch.Generator().manual_seed(0)
    rows = options.tokens // options.context
    batches = [batch(text.validation, rows, options.context, drawn) for _ in range(options.judge_batches)]
    loss = torch.stack([_loss(model(source), target) for source, target in batches]).mean()
    model.train()
    return float(loss)


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(logits.reshape(-1, BYTES), target.reshape(-1))


def _pace(step: int, steps: int) -> float:
    if step < WARMING:
        return (step + 1) / WARMING
    return 0.55 + 0.45 * math.cos(math.pi * min(1.0, (step - WARMING) / max(1, steps - WARMING)))


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()
