"""What every operator refuses before a kernel starts, and the numbers that it takes from others than Python."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equipoise.benchmarks.kernel_launches import counting
from equipoise.kernels import (
    BalancedRouter,
    admit,
    capped_route,
    combine,
    digit_histogram,
    dispatch,
    draw_by_budget,
    group_advantages,
    interior_prices,
    project_loads,
    quantile_prices,
    repeat_by_budget,
    topk_route,
)
from equipoise.kernels.checks import number, whole
from equipoise.kernels.segments import sure

SCORES = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
PRICES, PROMPT = torch.zeros(4), torch.tensor([0, 0, 1, 1, 2, 2])
COUNTS = torch.tensor([2, 1, 3])
NUMBERS: dict[str, Callable[[Any], Any]] = {
    "topk_route, k": lambda two: topk_route(SCORES, PRICES, two),
    "capped_route, k": lambda two: capped_route(SCORES, PRICES, two, 3).experts,
    "capped_route, rounds": lambda two: capped_route(SCORES, PRICES, 2, 3, rounds=two).experts,
    "quantile_prices, k": lambda two: quantile_prices(SCORES, two, 3),
    "quantile_prices, capacity": lambda two: quantile_prices(SCORES, 1, two),
    "quantile_prices, capacities": lambda two: quantile_prices(SCORES, 1, [two, 1, 3, two]),
    "quantile_prices, iterations": lambda two: quantile_prices(SCORES, 1, 2, iterations=two),
    "interior_prices, k": lambda two: interior_prices(SCORES, two, 3),
    "digit_histogram, shift": lambda two: digit_histogram(SCORES.int(), PRICES.int(), two, 4),
    "digit_histogram, bits": lambda two: digit_histogram(SCORES.int(), PRICES.int(), 0, two),
    "dispatch, count": lambda two: dispatch(SCORES, PROMPT[:, None] // 2, two).rows,
    "repeat_by_budget, total": lambda two: repeat_by_budget(COUNTS, COUNTS, two).values,
    "group_advantages, prompts": lambda two: group_advantages(SCORES[:, 0], PROMPT // 2, two),
    "draw_by_budget, total": lambda two: draw_by_budget(COUNTS, COUNTS, two, 0),
    "draw_by_budget, seed": lambda two: draw_by_budget(COUNTS * 99, COUNTS, 6, two),
    "project_loads, workers": lambda two: project_loads(PROMPT // 2, PROMPT, PROMPT, COUNTS, two),
    "BalancedRouter, width": lambda two: BalancedRouter(two, 4, 2).gate.in_features,
    "BalancedRouter, experts": lambda two: BalancedRouter(4, two, 2).prices,
    "BalancedRouter, k": lambda two: BalancedRouter(4, 4, two).k,
}


class Two:
    """Stands for a number, as its `__index__` says."""

    def __index__(self) -> int:
        return 2


@pytest.mark.parametrize("name", NUMBERS)
def test_whole_numbers_may_be_numpys(name: str) -> None:
    call = NUMBERS[name]
    wanted = call(2)
    for two in (np.int64(2), np.uint8(2), Two()):
        got = call(two)
        assert torch.equal(got, wanted) if isinstance(got, Tensor) else got == wanted and type(got) is int


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [True, np.True_, np.float64(2.0), "2", None, torch.tensor(2)],
    ids=["bool", "numpy's bool", "float", "str", "None", "tensor"],
)
def test_what_is_no_whole_number_is_refused_with_the_remedy(name: str, value: Any) -> None:
    if (name, value) == ("capped_route, rounds", None):
        return  # as many as usual
    named = "capacity" if "capacit" in name else name.split(", ")[1]
    wanted = "be a whole number|have the axes"  # a capacity may be a tensor, of an axis
    with pytest.raises((TypeError, ValueError), match=rf"^{named}(\[0\])?: must ({wanted})") as caught:
        NUMBERS[name](value)
    assert isinstance(value, Tensor) or "pass an int" in str(caught.value)


def test_an_array_of_capacities_is_as_good_as_a_list() -> None:
    places = np.array([2, 1, 3, 2])
    wanted = capped_route(SCORES, PRICES, 1, places.tolist())
    for capacity in (places, places.astype(np.uint16)):
        assert torch.equal(capped_route(SCORES, PRICES, 1, capacity).experts, wanted.experts)  # pyright: ignore
    for wrong, message in (
        (places / 2, r"capacity\[0\]: must be a whole number, got float64"),
        (places[None], "got nd"),
    ):
        with pytest.raises(TypeError, match=message):
            capped_route(SCORES, PRICES, 1, wrong)  # pyright: ignore[reportArgumentType]


def test_real_numbers_may_be_numpys_and_must_be_finite() -> None:
    for given in (0.5, np.float32(0.5), Fraction(1, 2)):
        assert number("eps", given) == 0.5
    assert number("step", np.int64(3), 1) == 3.0 and whole("k", np.int32(3), 1) == 3
    for wrong in (True, np.True_, "1", None, 1j, torch.tensor(1.0)):
        with pytest.raises(TypeError, match=r"eps: must be a number, got .*: pass a float"):
            number("eps", wrong)
    for wrong in (float("nan"), float("inf"), np.float32("-inf"), -1):
        with pytest.raises(ValueError, match="eps: must be finite and at least 0, got"):
            number("eps", wrong, 0)


TENSORS: dict[str, tuple[Callable[[Any], Any], Tensor]] = {
    "topk_route: scores": (lambda given: topk_route(given, PRICES, 2), SCORES),
    "topk_route: prices": (lambda given: topk_route(SCORES, given, 2), PRICES),
    "capped_route: scores": (lambda given: capped_route(given, PRICES, 2, 3), SCORES),
    "quantile_prices: scores": (lambda given: quantile_prices(given, 2, 3), SCORES),
    "quantile_prices: prices": (lambda given: quantile_prices(SCORES, 2, 3, given), PRICES),
    "interior_prices: scores": (lambda given: interior_prices(given, 2, 3), SCORES),
    "capped_route: capacity": (lambda given: capped_route(SCORES, PRICES, 2, given), torch.full((4,), 3)),
    "capped_route: valid": (lambda given: capped_route(SCORES, PRICES, 2, 3, given), PROMPT > 0),
    "digit_histogram: keys": (lambda given: digit_histogram(given, PRICES.int(), 0, 4), SCORES.int()),
    "dispatch: x": (lambda given: dispatch(given, PROMPT[:, None], 3), SCORES),
    "dispatch: experts": (lambda given: dispatch(SCORES, given, 3), PROMPT[:, None]),
    "combine: rows": (lambda given: combine(given, PROMPT[:, None], SCORES[:, :1]), SCORES),
    "combine: weights": (lambda given: combine(SCORES, PROMPT[:, None], given), SCORES[:, :1]),
    "repeat_by_budget: values": (lambda given: repeat_by_budget(given, COUNTS, 6), SCORES[:3]),
    "repeat_by_budget: counts": (lambda given: repeat_by_budget(SCORES[:3], given, 6), COUNTS),
    "group_advantages: rewards": (lambda given: group_advantages(given, PROMPT, 3), SCORES[:, 0]),
    "draw_by_budget: sizes": (lambda given: draw_by_budget(given, COUNTS, 6, 0), COUNTS),
    "project_loads: tokens": (lambda given: project_loads(PROMPT, given, PROMPT, COUNTS, 3), PROMPT),
    "admit: slots": (lambda given: admit(given, PROMPT, PROMPT), torch.full((3, 2), -1)),
    "BalancedRouter: x": (BalancedRouter(4, 4, 2), SCORES),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_not_dense_are_refused(name: str) -> None:
    call, tensor = TENSORS[name]
    named = name.split(": ")[1]
    call(tensor)
    with pytest.raises(
        (TypeError, ValueError), match=rf"^{named}: must be dense, got torch.sparse_coo: convert it with .to_dense\(\)$"
    ):
        call(tensor.to_sparse())
    with pytest.raises(TypeError, match=f"^{named}: must be dense, got a nested tensor: pad it"):
        call(torch.nested.nested_tensor([tensor.flatten()[:2], tensor.flatten()[:1]], layout=torch.jagged))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("name", [name for name, (_, tensor) in TENSORS.items() if tensor.is_floating_point()])
def test_floats_of_eight_bits_are_refused_where_numbers_are_compared(name: str, dtype: torch.dtype) -> None:
    call, tensor = TENSORS[name]
    if name == "repeat_by_budget: values":  # which may have any type
        assert call(tensor.to(dtype)).values.dtype == dtype
        return
    with pytest.raises(
        TypeError, match=rf"{name.split(': ')[1]}: must be floating point of at least 16 bits, got {dtype}"
    ):
        call(tensor.to(dtype))


def test_a_rule_broken_on_a_device_names_the_argument_the_rule_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the number, which would have to be waited for."""
    said: list[str] = []
    monkeypatch.setattr(torch, "_assert_async", lambda good, text: said.append(text))
    with counting():
        elsewhere = torch.empty(3)
        sure("prompt", elsewhere, elsewhere < 2, "below prompts, 2", "raise prompts")
    assert said == [
        "prompt: must be below prompts, 2: raise prompts (the same call on tensors of the CPU names the number)"
    ]


def test_a_rule_broken_on_the_cpu_names_the_first_number_and_its_place() -> None:
    values = torch.tensor([[1, 2], [7, 9]])
    with pytest.raises(ValueError, match=r"^experts\[1, 0\]: must be below count, 3, got 7: raise count$"):
        sure("experts", values, values < 3, "below count, 3", "raise count")
    with pytest.raises(ValueError, match=r"^rows: must be few, got 19: take fewer$"):
        sure("rows", values.sum(), values.sum() < 3, "few", "take fewer")
