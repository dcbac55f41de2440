"""Budgets acting on a batch: repeats, advantages within groups and draws, held against loops over groups."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from fractions import Fraction
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from equipoise.kernels import groups, shuffle
from equipoise.kernels.groups import draw_by_budget, group_advantages, repeat_by_budget
from equipoise.kernels.segments import Groups

COUNTS = {
    "usual": ([2, 0, 3, 1], 6),
    "fewer than the total": ([2, 0, 3], 9),
    "more than the total": ([4, 3, 5], 6),
    "one prompt": ([3], 3),
    "nothing": ([0, 0], 4),
    "no prompts": ([], 3),
    "no rows": ([1, 2], 0),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,)])
def test_each_prompt_comes_as_often_as_its_count(name: str, shape: tuple[int, ...]) -> None:
    counts, total = COUNTS[name]
    values = torch.randn(len(counts), *shape, generator=torch.Generator().manual_seed(1))
    wanted = [prompt for prompt, count in enumerate(counts) for _ in range(count)][:total]
    wanted += [-1] * (total - len(wanted))
    got = repeat_by_budget(values, torch.tensor(counts, dtype=torch.int64), total)
    assert got.prompt.tolist() == wanted and got.prompt.dtype == torch.int64
    assert got.values.shape == (total, *shape)
    for row, prompt in enumerate(wanted):
        assert torch.equal(got.values[row], values[prompt] if prompt >= 0 else torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.bfloat16])
def test_prompts_of_any_type_are_repeated(dtype: torch.dtype) -> None:
    values = torch.tensor([[1, 0], [1, 1]], dtype=dtype)
    got = repeat_by_budget(values, torch.tensor([1, 2], dtype=torch.int32), 4).values
    assert got.dtype == dtype and got.tolist() == [[1, 0], [1, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize("name", COUNTS)
def test_gradients_of_repeats_are_sums_over_each_prompts_rows(name: str) -> None:
    counts, total = COUNTS[name]
    values = torch.randn(len(counts), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def layer(values: Tensor) -> Tensor:
        return repeat_by_budget(values, torch.tensor(counts, dtype=torch.int64), total).values ** 2

    assert torch.autograd.gradcheck(layer, (values.requires_grad_(),))
    assert torch.autograd.gradgradcheck(layer, (values,))


def plain_advantages(
    rewards: list[float], prompt: list[int], baseline: str, scale: bool, eps: float = 1e-6
) -> list[float]:
    out = []
    for reward, group in zip(rewards, prompt, strict=True):
        own = [other for other, its in zip(rewards, prompt, strict=True) if its == group]
        if group < 0 or len(own) < 2 or len(set(own)) == 1:
            out.append(0.0)
            continue
        exact = sum(map(Fraction, own))
        base = exact / len(own) if baseline == "mean" else (exact - Fraction(reward)) / (len(own) - 1)
        out.append(float(Fraction(reward) - base) / (statistics.stdev(own) + eps if scale else 1.0))
    return out


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("kind", ["outcomes", "real", "far from zero"])
def test_advantages_are_those_of_a_loop_over_samples(
    kind: str, baseline: Literal["mean", "leave_one_out"], scale: bool
) -> None:
    """Groups of none, of one, of equal rewards and of both outcomes, in order and shuffled, with samples of none."""
    generator = torch.Generator().manual_seed(3)
    for prompts in (1, 4, 30):
        counts = torch.randint(0, 7, (prompts,), generator=generator)
        prompt = repeat_by_budget(torch.zeros(prompts), counts, int(counts.sum()) + 2).prompt
        rewards = torch.rand(len(prompt), generator=generator, dtype=torch.float64)
        rewards = {"outcomes": (rewards > 0.4).double(), "real": rewards, "far from zero": 1e9 + rewards}[kind]
        for order in (torch.arange(len(prompt)), torch.randperm(len(prompt), generator=generator)):
            got = group_advantages(rewards[order], prompt[order], prompts, baseline, scale)
            wanted = plain_advantages(rewards[order].tolist(), prompt[order].tolist(), baseline, scale)
            assert torch.allclose(got, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12)
            flat = torch.tensor(wanted, dtype=torch.float64) == 0
            assert not got[flat].any()


def test_groups_that_show_no_difference_get_exactly_nothing() -> None:
    """Even where the mean of equal rewards is not that reward in floating point: (0.1 + 0.1 + 0.1) / 3 > 0.1."""
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.7, 5.0, 6.0], dtype=torch.float64)
    prompt = torch.tensor([0, 0, 0, 2, -1, -1])
    for eps in (0.0, 1e-6):
        assert group_advantages(rewards, prompt, 3, eps=eps).tolist() == [0.0] * 6


def test_a_reward_that_is_not_a_number_shows_in_its_group_and_nowhere_else() -> None:
    rewards = torch.tensor([0.0, math.nan, 1.0, 0.0, math.inf, 0.0, 1.0])
    got = group_advantages(rewards, torch.tensor([0, 0, 0, 1, 1, 2, 2]), 3)
    assert got[:5].isnan().all()
    assert torch.allclose(got[5:], torch.tensor([-1.0, 1.0]) / math.sqrt(2), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_advantages_of_narrow_types_are_those_of_float64_rounded(dtype: torch.dtype) -> None:
    rewards = torch.rand(40, generator=torch.Generator().manual_seed(4)).to(dtype)
    prompt = torch.arange(40) // 5
    got = group_advantages(rewards, prompt, 8)
    assert got.dtype == dtype and torch.equal(got, group_advantages(rewards.double(), prompt, 8).to(dtype))


def test_the_order_of_samples_between_groups_changes_no_bit() -> None:
    rewards = torch.rand(600, generator=torch.Generator().manual_seed(5))
    prompt = torch.arange(600) // 6
    by_column = torch.arange(600).reshape(100, 6).t().flatten()
    got = group_advantages(rewards[by_column], prompt[by_column], 100)
    assert torch.equal(got, group_advantages(rewards, prompt, 100)[by_column])


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
@pytest.mark.parametrize("count", [1, 9, 40_000])
def test_sums_are_the_same_to_the_bit_by_order_and_as_rows_come(shape: tuple[int, ...], count: int) -> None:
    """GPUs take the one way, the CPU the other; empty groups, rows of none, and 1e8 beside 1e-8."""
    generator = torch.Generator().manual_seed(10)
    values = torch.randn(300, *shape, generator=generator) * 10.0 ** torch.randint(
        -8, 9, (300, *shape), generator=generator
    )
    its = Groups(torch.randint(-1, count, (300,), generator=generator), count)
    assert torch.equal(its.sums(values)[:count], its.sums_by_order(values))
    assert not its.sums(values)[count].any()
    order, ends = its.sorted
    sizes = torch.diff(ends, prepend=ends.new_zeros(1))
    assert torch.equal(sizes, its.sizes[:count]) and torch.equal(order[: ends[-1]], order[its.key[order] < count])


def test_draws_are_different_rows_of_their_groups() -> None:
    generator = torch.Generator().manual_seed(6)
    for seed in range(20):
        number = int(torch.randint(1, 12, (), generator=generator))
        sizes = torch.randint(0, 40, (number,), generator=generator)
        counts = torch.minimum(torch.randint(0, 50, (number,), generator=generator), sizes + seed % 3)
        total = int(counts.sum()) + seed % 4
        rows = draw_by_budget(sizes, counts, total, seed).tolist()
        starts, at = (sizes.cumsum(0) - sizes).tolist(), 0
        for size, count, start in zip(sizes.tolist(), counts.tolist(), starts, strict=True):
            own, at = rows[at : at + count], at + count
            there = own[: min(size, count)]
            assert len(set(there)) == len(there) and all(start <= row < start + size for row in there)
            assert own[len(there) :] == [-1] * (count - len(there))
        assert rows[at:] == [-1] * (total - at)


def test_draws_depend_on_the_seed_alone() -> None:
    sizes, counts = torch.tensor([500, 900]), torch.tensor([40, 60])
    one, same, other = (draw_by_budget(sizes, counts, 100, seed).tolist() for seed in (3, 3, 4))
    assert one == same and len(set(one) & set(other)) < 40
    assert draw_by_budget(sizes, counts, 70, 3).tolist() == one[:70]
    assert draw_by_budget(sizes.int(), counts.int(), 100, 3).tolist() == one
    huge = torch.full((2,), 2**31 - 1, dtype=torch.int32)
    rows = draw_by_budget(huge, torch.tensor([50, 50]), 100, 3)
    assert rows.min() >= 0 and rows[:50].max() < 2**31 - 1 <= rows[50:].min() and rows.max() < 2**32 - 2


def test_groups_of_one_size_and_seeds_in_a_row_do_not_repeat_each_other() -> None:
    sizes, counts = torch.full((60,), 1000), torch.full((60,), 4)
    starts = (torch.arange(60) * 1000).repeat_interleave(4)
    drawn = [
        tuple(row)
        for seed in range(20)
        for row in (draw_by_budget(sizes, counts, 240, seed) - starts).reshape(60, 4).tolist()
    ]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 13])
def test_every_pair_of_a_small_group_is_drawn_equally_often(size: int) -> None:
    """20,000 groups at once, pairs in order; seed 8. Pearson's statistic within five standard deviations."""
    groups_, pairs = 20_000, size * (size - 1)
    rows = draw_by_budget(torch.full((groups_,), size), torch.full((groups_,), 2), 2 * groups_, 8)
    seen = Counter(map(tuple, (rows.reshape(-1, 2) % size).tolist()))
    wanted = groups_ / pairs
    statistic = sum((number - wanted) ** 2 / wanted for number in seen.values()) + wanted * (pairs - len(seen))
    assert abs(statistic - (pairs - 1)) < 5 * math.sqrt(2 * (pairs - 1))


def test_every_row_of_a_large_group_is_drawn_equally_often() -> None:
    """1,000 draws of 40 out of 997: each row about 40 times; seed 9."""
    rows = draw_by_budget(torch.full((1000,), 997), torch.full((1000,), 40), 40_000, 9) % 997
    wanted = 40_000 / 997
    statistic = float(((torch.bincount(rows, minlength=997) - wanted) ** 2 / wanted).sum())
    assert abs(statistic - 996) < 5 * math.sqrt(2 * 996)


def test_rectangles_are_hardly_larger_than_their_domains() -> None:
    """So that walks end: surely below 652, and but for one in 10¹⁷ above."""
    size = torch.cat(
        [torch.arange(1, 20_000), torch.randint(1, 2**52, (5_000,), generator=torch.Generator().manual_seed(1))]
    )
    width, height = shuffle.rectangle(size)
    beyond = width * height - size
    assert (beyond >= 0).all() and (beyond[:651] < shuffle.WALK).all()
    longer = torch.ones(len(size), dtype=torch.float64)
    for step in range(shuffle.WALK):
        longer *= (beyond - step).clamp_min(0) / (width * height - step).clamp_min(1)
    assert float(longer.max()) < 1e-17


def test_a_shuffle_is_one_to_one() -> None:
    sizes = torch.tensor([1, 2, 3, 17, 651, 652, 1601])
    which = torch.arange(len(sizes)).repeat_interleave(sizes)
    index = torch.arange(len(which)) - (sizes.cumsum(0) - sizes)[which]
    went = shuffle.shuffled(index, sizes, which, 2**62 + 5)
    for domain, size in enumerate(sizes.tolist()):
        assert torch.equal(went[which == domain].sort().values, torch.arange(size))


PROMPT = torch.tensor([0, 0, 1, 2, 2, -1])
SIZES, NUMBERS = torch.tensor([9, 0, 30]), torch.tensor([3, 1, 2])
OPERATORS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "prompts_by_budget": (groups._prompts, (NUMBERS, 7)),
    "take_by_prompt": (groups._take, (torch.ones(3, 2, requires_grad=True), PROMPT)),
    "add_by_prompt": (groups._add, (torch.ones(6, 2, requires_grad=True), PROMPT, 3)),
    "group_advantages": (groups._advantages, (torch.arange(6.0), PROMPT, 3, True, True, 1e-6)),
    "draw_by_budget": (groups._draw, (SIZES, NUMBERS, 8, 1)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operators_are_registered_as_torch_wants_them(name: str) -> None:
    torch.library.opcheck(*OPERATORS[name])


def acted(values: Tensor, rewards: Tensor, counts: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
    repeated = repeat_by_budget(values, counts, 7)
    gains = group_advantages(rewards, repeated.prompt, 3, "leave_one_out")
    return repeated.values, gains, draw_by_budget(sizes, counts, 7, 5)


def test_a_compiled_graph_keeps_them_whole() -> None:
    given = torch.randn(3, 2), torch.arange(7.0), NUMBERS, SIZES
    compiled = torch.compile(acted, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(one, other) for one, other in zip(compiled(*given), acted(*given), strict=True))


REWARDS = torch.zeros(6)
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "values are a list": (lambda: repeat_by_budget([1.0], NUMBERS, 3), TypeError, "values: must be a tensor"),  # pyright: ignore
    "values of other prompts": (
        lambda: repeat_by_budget(REWARDS, NUMBERS, 3),
        ValueError,
        "a row for each of 3 counts",
    ),
    "values without prompts": (lambda: repeat_by_budget(REWARDS[0], NUMBERS, 3), ValueError, "a row for each of 3"),
    "values elsewhere": (
        lambda: repeat_by_budget(REWARDS[:3].to("meta"), NUMBERS, 3),
        ValueError,
        "values: is on meta",
    ),
    "real counts": (lambda: repeat_by_budget(REWARDS, REWARDS, 3), TypeError, "counts: must be int32 or int64"),
    "a negative total": (lambda: repeat_by_budget(SIZES, NUMBERS, -1), ValueError, "total: must be at least 0, got -1"),
    "a negative count": (
        lambda: repeat_by_budget(SIZES, -NUMBERS, 3),
        ValueError,
        r"counts\[0\]: must be at least 0, got -3",
    ),
    "rewards that are whole": (lambda: group_advantages(PROMPT, PROMPT, 3), TypeError, "rewards: must be floating"),
    "prompts of other samples": (lambda: group_advantages(REWARDS, SIZES, 3), ValueError, "prompt: has 3 samples"),
    "a prompt too many": (
        lambda: group_advantages(REWARDS, PROMPT, 2),
        ValueError,
        r"prompt\[3\]: must be below prompts, 2, got 2: raise prompts",
    ),
    "no such baseline": (lambda: group_advantages(REWARDS, PROMPT, 3, "max"), ValueError, "baseline: .* got 'max'"),  # pyright: ignore
    "eps below 0": (lambda: group_advantages(REWARDS, PROMPT, 3, eps=-1.0), ValueError, "eps: .* got -1.0"),
    "eps not a number": (lambda: group_advantages(REWARDS, PROMPT, 3, eps=math.nan), ValueError, "eps: .* got nan"),
    "sizes of other groups": (lambda: draw_by_budget(SIZES, PROMPT, 3, 1), ValueError, "counts: has 6 groups"),
    "a negative size": (
        lambda: draw_by_budget(-SIZES, NUMBERS, 3, 1),
        ValueError,
        r"sizes\[0\]: must be from 0 to 2⁵², got -9",
    ),
    "a negative seed": (lambda: draw_by_budget(SIZES, NUMBERS, 3, -1), ValueError, "seed: must be from 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_refused_in_words(name: str) -> None:
    call, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        call()


def test_rewards_of_any_magnitude_are_told_apart() -> None:
    """Their squares are beyond every float, or below; and so are sums of the largest."""
    prompt = torch.zeros(4, dtype=torch.int64)
    wanted = group_advantages(torch.tensor([1.0, -1.0, 0.0, 1.0], dtype=torch.float64), prompt, 1, eps=0.0)
    for size in (1.4e308, 1e200, 1e-200, 2.0**-900):
        rewards = torch.tensor([size, -size, 0.0, size], dtype=torch.float64)
        assert torch.allclose(group_advantages(rewards, prompt, 1, eps=0.0), wanted, rtol=1e-12, atol=0)
        plain = group_advantages(rewards, prompt, 1, scale=False)
        assert torch.allclose(plain / size, torch.tensor([0.75, -1.25, -0.25, 0.75]).double(), rtol=1e-12, atol=0)
    rewards = torch.tensor([1e200, 0.0, 1e-3, 0.0], dtype=torch.float64)
    beside = group_advantages(rewards, torch.tensor([0, 0, 1, 1]), 2)
    alone = group_advantages(rewards[2:], torch.tensor([0, 0]), 1)
    assert torch.equal(beside[2:], alone) and beside[:2].tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])


def test_advantages_say_that_they_have_no_gradient() -> None:
    gains = group_advantages(REWARDS.clone().requires_grad_(), PROMPT, 3)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gains.sum().backward()


def test_counts_whose_sum_no_integer_holds_are_cut_as_others_are() -> None:
    assert repeat_by_budget(torch.arange(3), torch.tensor([1, 2**63 - 1, 1]), 4).prompt.tolist() == [0, 1, 1, 1]
    drawn = draw_by_budget(torch.tensor([3] * 4), torch.tensor([2**62] * 4), 4, 0).tolist()
    assert sorted(drawn[:3]) == [0, 1, 2] and drawn[3] == -1
    with pytest.raises(ValueError, match=r"rows of all sizes: must be at most 2⁶², got 1\.35.*: draw"):
        draw_by_budget(torch.tensor([2**52] * 3000), torch.tensor([0] * 2999 + [2]), 2, 0)


def test_a_flag_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="scale: must be True or False, got 'no'"):
        group_advantages(REWARDS, PROMPT, 3, scale="no")  # pyright: ignore[reportArgumentType]
