"""How do budgets act on a batch: rows repeated per prompt, advantages within groups, rows drawn from groups.

Groups are ragged: as many rows each as a plan gave them. Group-relative advantages are those of GRPO
(arXiv 2402.03300) with the group's mean as baseline, and of RLOO (arXiv 2402.14740) with the mean of the others.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .checks import Inputs, dense, flag, number, whole
from .segments import Groups, clear, sure
from .shuffle import shuffled

_ROOM = 2.0**-64
"""What rewards are multiplied by, so that sums over a group stay finite; a power of two rounds none above 1e-288."""


class Repeated(NamedTuple):
    """Prompts' rows, as often as their budgets say. values (total, …); prompt (total,) int64, −1 behind the last."""

    values: Tensor
    prompt: Tensor


def repeat_by_budget(values: Tensor, counts: Tensor, total: int) -> Repeated:
    """Each prompt's row of values (prompts, …) `counts` times (prompts,), in order: `total` rows.

    Where the counts add up to less, the tail is prompt −1 and zeros; where they add up to more, the rest is cut.
    Differentiable in `values`, which may have any dtype. Raises `TypeError` and `ValueError` for wrong dtypes,
    shapes, devices and totals, and `ValueError` for a negative count (on a GPU: a device assertion).
    """
    inputs = Inputs()
    inputs.take("counts", counts, "prompts", "whole")
    dense("values", values)
    if values.ndim < 1 or len(values) != len(counts):
        raise ValueError(f"values: must have a row for each of {len(counts)} counts, got {tuple(values.shape)}")
    if values.device != counts.device:
        raise ValueError(f"values: is on {values.device}, but counts is on {counts.device}: move one of them")
    prompt = _prompts(counts, whole("total", total, 0))
    return Repeated(_take(values, prompt), prompt)


def group_advantages(
    rewards: Tensor,
    prompt: Tensor,
    prompts: int,
    baseline: Literal["mean", "leave_one_out"] = "mean",
    scale: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """(samples,) how much better each sample's reward is than its group's baseline, in the dtype of `rewards`.

    rewards (samples,); prompt (samples,): the group of each, in any order, −1 for none; prompts: how many groups.
    The baseline is the mean of the group, or of its others. With `scale` the difference is divided by the group's
    standard deviation (of a sample: n − 1) plus `eps`. Groups of one, groups of equal rewards, and samples of no
    group get exactly 0. Computed in float64, in which nothing overflows on the way; no gradient. Raises
    `TypeError` and `ValueError` for wrong dtypes, shapes, devices and options, and `ValueError` for a prompt of
    `prompts` or more (on a GPU: a device assertion).
    """
    inputs = Inputs()
    inputs.take("rewards", rewards, "samples")
    inputs.take("prompt", prompt, "samples", "whole")
    if baseline not in ("mean", "leave_one_out"):
        raise ValueError(f"baseline: must be 'mean' or 'leave_one_out', got {baseline!r}")
    scaled, least = flag("scale", scale), number("eps", eps, 0)
    return _advantages(rewards, prompt, whole("prompts", prompts, 0), baseline == "leave_one_out", scaled, least)


def draw_by_budget(sizes: Tensor, counts: Tensor, total: int, seed: int) -> Tensor:
    """(total,) int64: `counts` (groups,) different rows of each group, drawn uniformly; −1 where there is none.

    The groups' rows lie one after the other, `sizes` (groups,) each. Entries come in the order of the groups; −1
    stands where a count exceeds its size, and behind the last where the counts add up to less than `total`; where
    they add up to more, the rest is cut. The same seed draws the same rows. Raises `TypeError` and `ValueError` for
    wrong dtypes, shapes, devices, totals and seeds, `ValueError` for negative numbers (on a GPU: a device assertion).
    """
    inputs = Inputs()
    inputs.take("sizes", sizes, "groups", "whole")
    inputs.take("counts", counts, "groups", "whole")
    return _draw(sizes, counts, whole("total", total, 0), whole("seed", seed, 0, 2**63 - 1))


@torch.library.custom_op("equipoise::prompts_by_budget", mutates_args=())
def _prompts(counts: Tensor, total: int) -> Tensor:
    return _entries(counts, total)[0]


@_prompts.register_fake
def _(counts: Tensor, total: int) -> Tensor:
    return counts.new_empty((total,), dtype=torch.int64)


@torch.library.custom_op("equipoise::take_by_prompt", mutates_args=())
def _take(values: Tensor, prompt: Tensor) -> Tensor:
    """(samples, …) each sample's row of values (prompts, …), zero for prompt −1."""
    if not len(values):
        return values.new_zeros((len(prompt), *values.shape[1:]))
    return clear(values.index_select(0, prompt.clamp_min(0)), prompt < 0)


@_take.register_fake
def _(values: Tensor, prompt: Tensor) -> Tensor:
    return values.new_empty((prompt.shape[0], *values.shape[1:]))


@torch.library.custom_op("equipoise::add_by_prompt", mutates_args=())
def _add(values: Tensor, prompt: Tensor, prompts: int) -> Tensor:
    """(prompts, …) the sums of the rows of each prompt, of values (samples, …)."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return Groups(prompt, prompts).sums(values.to(wide))[:prompts].to(values.dtype)


@_add.register_fake
def _(values: Tensor, prompt: Tensor, prompts: int) -> Tensor:
    return values.new_empty((prompts, *values.shape[1:]))


def _keep_prompt(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.prompts = inputs[0].shape[0]


_take.register_autograd(
    lambda ctx, grad: (_add(grad, ctx.saved_tensors[0], ctx.prompts), None), setup_context=_keep_prompt
)
_add.register_autograd(lambda ctx, grad: (_take(grad, ctx.saved_tensors[0]), None, None), setup_context=_keep_prompt)


@torch.library.custom_op("equipoise::group_advantages", mutates_args=())
def _advantages(rewards: Tensor, prompt: Tensor, prompts: int, others: bool, scale: bool, eps: float) -> Tensor:
    sure("prompt", prompt, prompt < prompts, f"below prompts, {prompts}", "raise prompts, or pass −1 for no group")
    if not rewards.numel() or not prompts:
        return torch.zeros_like(rewards)
    groups, exact = Groups(prompt, prompts), rewards.to(torch.float64) * _ROOM
    of, size = groups.key, groups.sizes.to(torch.float64)
    # Measured from the least of its group, equal rewards are exactly 0, and large ones keep their digits.
    least = exact.new_full((prompts + 1,), math.inf).scatter_reduce_(0, of, exact, "amin")
    above = exact - least[of]
    above = above - (groups.sums(above) / size.clamp_min(1))[of]
    unit = _unit(torch.zeros_like(least).scatter_reduce_(0, of, above.abs(), "amax"))
    to_unit, others_number = unit[of], (size - 1).clamp_min(1)
    deviation = (groups.sums((above * to_unit).square()) / others_number).sqrt()
    if others:
        above = above * size[of] / others_number[of]
    above = above * to_unit / (deviation + eps * _ROOM * unit)[of] if scale else above / _ROOM
    # Not `deviation > 0`: a group with a reward that is not a number must show it.
    return above.masked_fill((deviation == 0)[of] | (prompt < 0), 0).to(rewards.dtype)


def _unit(largest: Tensor) -> Tensor:
    """Powers of two, so that nothing is rounded, that bring each number (float64) near 1 and its square in reach."""
    exponent = torch.frexp(largest).exponent.clamp(-1000, 1000)
    return ((1023 - exponent.long()) << 52).view(torch.float64)


@_advantages.register_fake
def _(rewards: Tensor, prompt: Tensor, prompts: int, others: bool, scale: bool, eps: float) -> Tensor:
    return torch.empty_like(rewards)


@torch.library.custom_op("equipoise::draw_by_budget", mutates_args=())
def _draw(sizes: Tensor, counts: Tensor, total: int, seed: int) -> Tensor:
    sizes = sizes.to(torch.int64)
    sure("sizes", sizes, (sizes >= 0) & (sizes <= 2**52), "from 0 to 2⁵²", "pass how many rows each group has")
    rows = sizes.to(torch.float64).sum()
    sure("rows of all sizes", rows, rows <= 2**62, "at most 2⁶²", "draw from fewer groups at once")
    group, before = _entries(counts, total)
    if not len(sizes):
        return group
    which = group.clamp_min(0)
    there = (group >= 0) & (before < sizes[which])
    row = shuffled(before.masked_fill(~there, 0), sizes.clamp_min(1), which, seed)
    start = (sizes.cumsum(0, dtype=torch.int64) - sizes)[which]
    return (start + row).masked_fill(~there | (row >= sizes[which]), -1)


@_draw.register_fake
def _(sizes: Tensor, counts: Tensor, total: int, seed: int) -> Tensor:
    return sizes.new_empty((total,), dtype=torch.int64)


def _entries(counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """(total,) the group of each entry, −1 behind the last; (total,) how many of its group came before it."""
    sure("counts", counts, counts >= 0, "at least 0", "pass 0 for a group that gets none")
    counts = counts.to(torch.int64).clamp(max=total)  # what is beyond is cut, and no sum overflows
    ends = counts.cumsum(0)
    entry = torch.arange(total, device=counts.device)
    group = torch.searchsorted(ends, entry, right=True)
    if not len(counts):
        return group.fill_(-1), entry
    before = entry - (ends - counts)[group.clamp_max(len(counts) - 1)]
    return group.masked_fill(group == len(counts), -1), before
