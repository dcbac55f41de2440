"""Fits of learning curves: known laws are found again, optimality conditions hold, ill-behaved curves do no harm."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from equipoise.solvers import collection_curves as fitting
from equipoise.solvers.collection_curves import (
    Curves,
    Sightings,
    fit_convex,
    fit_power_laws,
    nonnegative_least_squares,
    sightings,
)
from equipoise.specs.arrays import Floats

DATA = Path(__file__).parent.parent / "specs" / "examples" / "data" / "learning_curves_observations.csv"


def observed(*curves: tuple[list[int], list[float]], stderr: list[float] | None = None) -> Sightings:
    """Sightings of one group per (samples, losses)."""
    group = np.concatenate([np.full(len(samples), row) for row, (samples, _) in enumerate(curves)])
    samples = np.concatenate([np.array(samples) for samples, _ in curves])
    loss = np.concatenate([np.array(losses, np.float64) for _, losses in curves])
    return sightings(group, samples, loss, None if stderr is None else np.array(stderr), len(curves))


def real_curves() -> Sightings:
    """The sixteen curves of the shipped example."""
    rows = list(csv.DictReader(DATA.read_text().splitlines()))
    names = list(dict.fromkeys(row["group"] for row in rows))
    return sightings(
        np.array([names.index(row["group"]) for row in rows]),
        np.array([int(row["samples"]) for row in rows]),
        np.array([float(row["loss"]) for row in rows]),
        np.array([float(row["stderr"]) for row in rows]),
        len(names),
    )


def misfit(seen: Sightings, curves: Curves) -> Floats:
    """(groups,) weighted sums of squares."""
    return seen.total(seen.weight * (seen.loss - curves.loss(seen.group, seen.samples)) ** 2)


@pytest.mark.parametrize(
    ("asymptote", "scale", "exponent"),
    [(0.1, 0.8, 0.5), (0.0, 2.0, 0.05), (0.3, 40.0, 2.0), (0.2, 1.0, 1.0), (0.05, 0.3, 0.31)],
)
def test_a_power_law_is_found_again(asymptote: float, scale: float, exponent: float) -> None:
    samples = [16, 23, 32, 45, 64, 91, 128, 256]
    fit = fit_power_laws(observed((samples, [asymptote + scale * n**-exponent for n in samples])))
    assert fit.asymptote[0] == pytest.approx(asymptote, abs=1e-5)
    assert fit.scale[0] == pytest.approx(scale, rel=1e-4)
    assert fit.exponent[0] == pytest.approx(exponent, rel=1e-4)


def test_no_power_law_on_a_fine_grid_fits_better() -> None:
    seen = real_curves()
    found = misfit(seen, fit_power_laws(seen))
    exponents = np.exp(np.linspace(np.log(fitting.EXPONENTS[0]), np.log(fitting.EXPONENTS[1]), 1500))
    for group in range(len(found)):
        part = slice(*seen.starts[group : group + 2])
        root = np.sqrt(seen.weight[part])
        for exponent in exponents.tolist():
            basis = np.column_stack([np.ones(part.stop - part.start), seen.samples[part] ** -exponent])
            x = nonnegative_least_squares(basis * root[:, None], seen.loss[part] * root)
            least = (((basis @ x - seen.loss[part]) * root) ** 2).sum()
            assert found[group] <= least * (1 + 1e-9), (group, exponent)


@pytest.mark.parametrize("losses", [[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.0, 0.0]])
def test_a_curve_that_does_not_fall_is_its_mean(losses: list[float]) -> None:
    seen = observed(([8, 16, 32, 64], losses))
    power, convex = fit_power_laws(seen), fit_convex(seen)
    assert (power.scale[0], power.exponent[0]) == (0.0, 1.0)
    assert power.asymptote[0] == pytest.approx(np.mean(losses))
    assert convex.loss(np.zeros(2, np.int64), np.array([8, 1000])) == pytest.approx(np.mean(losses))


def test_standard_errors_weigh() -> None:
    losses = [0.5, 0.4, 0.3, 0.9]
    seen = observed(([8, 16, 32, 64], losses), stderr=[0.001, 0.001, 0.001, 100.0])
    assert fit_convex(seen).loss(np.zeros(3, np.int64), np.array([8, 16, 32])) == pytest.approx(losses[:3], abs=1e-6)


def test_observations_at_one_size_make_a_flat_curve() -> None:
    seen = observed(([8, 8, 8], [0.2, 0.3, 0.4]))
    assert fit_power_laws(seen).loss(np.zeros(1, np.int64), np.array([500])) == pytest.approx([0.3])
    assert fit_convex(seen).loss(np.zeros(1, np.int64), np.array([500])) == pytest.approx([0.3])


def test_convex_fits_fall_flatten_and_stay_above_zero() -> None:
    seen = real_curves()
    curves = fit_convex(seen)
    for group in range(len(seen.starts) - 1):
        samples = np.arange(4, 3000)
        loss = curves.loss(np.full(len(samples), group), samples)
        assert (np.diff(loss) <= 1e-15).all()
        assert (np.diff(loss, 2) >= -1e-14).all()
    steep = fit_convex(observed(([10, 20, 40], [0.3, 0.2, 0.1])))
    assert steep.loss(np.zeros(2, np.int64), np.array([79, 10**9])) == pytest.approx([0.0018, 0.0], abs=1e-3)


def test_the_convex_model_fits_at_least_as_well_where_power_laws_are_convex() -> None:
    seen = real_curves()
    assert (seen.error(fit_convex(seen)) <= seen.error(fit_power_laws(seen)) * (1 + 1e-6)).all()


@pytest.mark.parametrize("seed", range(40))
def test_nonnegative_least_squares_meets_its_optimality_conditions(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns, free = int(random.integers(2, 30)), int(random.integers(1, 12)), int(random.integers(0, 2))
    matrix = random.normal(size=(rows, columns)) * 10.0 ** random.integers(-3, 3, columns)
    matrix[:, random.random(columns) < 0.1] = 0.0
    target = random.normal(size=rows)
    x = nonnegative_least_squares(matrix, target, free)
    size = np.maximum(np.sqrt((matrix**2).sum(axis=0)), 1e-300)
    pull = matrix.T @ (target - matrix @ x) / size
    assert (x[free:] >= 0).all()
    assert (pull[free:] <= 1e-9).all()
    assert np.abs(pull[(x != 0) | (np.arange(columns) < free)]).max(initial=0.0) <= 1e-9


def test_real_fits_meet_their_optimality_conditions() -> None:
    seen = real_curves()
    curves = fit_convex(seen)
    residual = seen.loss - curves.loss(seen.group, seen.samples)
    for group in range(len(seen.starts) - 1):
        part = slice(*seen.starts[group : group + 2])
        samples, weight = seen.samples[part], seen.weight[part]
        log = np.log(samples)
        hinges = np.maximum(np.log(np.unique(samples)[1:-1])[None, :] - log[:, None], 0.0)
        basis = np.column_stack([np.ones(len(log)), log.mean() - log, hinges])
        pull = (basis * weight[:, None]).T @ residual[part] / np.sqrt((basis**2 * weight[:, None]).sum(axis=0))
        assert abs(pull[0]) <= 1e-9
        assert (pull <= 1e-9).all()
        held = np.isin(np.unique(samples)[1:-1], curves.bend[group][curves.weight[group] > 0])
        assert np.abs(pull[2:][held]).max(initial=0.0) <= 1e-9
