"""How numbers and times are printed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from equipoise.clients.cli import figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234567.0, "1,234,567"),
        (11.757716336484368, "11.7577"),
        (266828.1497, "266,828"),
        (0.0009593013, "0.000959301"),
        (2.5e-9, "2.5e-09"),
        (0.1 + 0.2, "0.3"),
        (-0.0, "0"),
        (math.inf, "∞"),
    ],
)
def test_numbers_are_printed_to_the_digits_that_mean_something(value: float, text: str) -> None:
    assert figures.number(value) == text


def test_columns_line_up_and_two_numbers_are_told_apart() -> None:
    assert figures.column(np.array([1234.5678, 2.0, 0.25])) == ["1,234.6", "2.0", "0.2"]
    assert figures.column(np.array([1200, 7])) == ["1,200", "7"]
    assert figures.column(np.array([-np.inf, 0.5])) == ["−∞", "0.50000"]
    assert figures.distinct(20.6841867, 20.6846430) == ("20.68419", "20.68464")
    assert figures.distinct(3.0, 3.0) == ("3", "3")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0041, "4.1 ms"), (0.4573, "0.46 s"), (12.34, "12.3 s"), (205.0, "3 min 25 s")]
)
def test_times_are_printed_in_fitting_units(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text
