"""Curves fitted to a whole batch: what the groups share helps where data is poor, and does no harm where it is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers import collection_beliefs as beliefs
from equipoise.solvers.collection_beliefs import SharedFit, fit_shared_power_laws
from equipoise.solvers.collection_curves import Curves, Sightings, fit_power_laws, sightings
from equipoise.specs.arrays import Floats, Integers

SIZES = [16, 24, 36, 54, 81, 121]


def batch(losses: list[list[float]], stderr: float | None = 0.01, sizes: list[int] = SIZES) -> Sightings:
    """A group per list of losses, at the first of the sizes."""
    group = np.repeat(np.arange(len(losses)), [len(row) for row in losses])
    samples = np.concatenate([np.array(sizes[: len(row)], np.int64) for row in losses])
    loss = np.concatenate([np.array(row, np.float64) for row in losses])
    return sightings(group, samples, loss, None if stderr is None else np.full(len(loss), stderr), len(losses))


def falling(asymptote: float, scale: float, exponent: float, sizes: list[int] = SIZES) -> list[float]:
    return [asymptote + scale * size**-exponent for size in sizes]


def synthetic(seed: int, groups: int, noise: float) -> tuple[Sightings, Floats, Floats]:
    """A noisy batch of power laws, and their true losses at 242 and at 1000 samples."""
    random = np.random.default_rng(seed)
    laws = [(random.uniform(0.02, 0.2), random.uniform(1, 3), random.uniform(0.35, 0.65)) for _ in range(groups)]
    noisy = [[max(loss + noise * random.normal(), 0.0) for loss in falling(*law)] for law in laws]
    twice, far = (np.array([a + b * size**-c for a, b, c in laws]) for size in (242.0, 1000.0))
    return batch(noisy, noise), twice, far


def at(curves: Curves, group: int, samples: int) -> float:
    """The loss of one group."""
    return float(curves.loss(np.array([group]), np.array([samples]))[0])


def each(curves: Curves, groups: int, samples: int) -> Floats:
    """The losses of all groups."""
    return curves.loss(np.arange(groups), np.full(groups, samples))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("noise", "ratio"), [(0.01, 0.85), (0.03, 0.7)])
def test_noisy_batches_are_foretold_better_than_group_by_group(seed: int, noise: float, ratio: float) -> None:
    seen, _, far = synthetic(seed, 40, noise)
    together, alone = each(fit_shared_power_laws(seen).curves, 40, 1000), each(fit_power_laws(seen), 40, 1000)
    assert np.sqrt(((together - far) ** 2).mean()) <= ratio * np.sqrt(((alone - far) ** 2).mean())


@pytest.mark.parametrize(("asymptote", "scale", "exponent"), [(0.1, 2.0, 0.5), (0.05, 1.0, 0.3), (0.2, 5.0, 0.8)])
def test_a_well_observed_batch_is_foretold_closely(asymptote: float, scale: float, exponent: float) -> None:
    seen = batch([falling(asymptote, scale, exponent)] * 8, 0.0005)
    for samples in (121, 242, 1000):
        truth = asymptote + scale * samples**-exponent
        assert at(fit_shared_power_laws(seen).curves, 0, samples) == pytest.approx(truth, rel=0.12)


def test_a_group_of_one_point_falls_as_the_batch_does() -> None:
    steep, flat = [falling(0.0, 3.0, 0.6)] * 30, [[0.3] * 6] * 30
    for others, least, most in ((steep, 0.35, 1.0), (flat, 0.0, 0.15)):
        curves = fit_shared_power_laws(batch([*others, [0.4]])).curves
        assert at(curves, 30, 16) == pytest.approx(0.4)
        assert least <= 1 - at(curves, 30, 160) / at(curves, 30, 16) <= most


def test_its_own_data_outweighs_the_batch() -> None:
    curves = fit_shared_power_laws(batch([*[falling(0.0, 3.0, 0.6)] * 30, [0.4] * 6], 0.002)).curves
    assert 1 - at(curves, 30, 1210) / at(curves, 30, 121) <= 0.15
    assert 1 - at(curves, 0, 1210) / at(curves, 0, 121) >= 0.5


def test_noise_is_not_taken_for_a_fall() -> None:
    losses = [0.46, 0.44, 0.41, 0.42, 0.40, 0.38]
    loud, quiet = (fit_shared_power_laws(batch([losses], error)).curves for error in (0.1, 0.001))
    assert at(quiet, 0, 121) - at(quiet, 0, 1210) > at(loud, 0, 121) - at(loud, 0, 1210)


def test_a_curve_that_rises_is_not_expected_to_fall_as_one_that_falls() -> None:
    curves = fit_shared_power_laws(batch([falling(0.1, 2.0, 0.5), falling(0.1, 2.0, 0.5)[::-1]])).curves
    fall = each(curves, 2, 121) - each(curves, 2, 1210)
    assert 0 <= fall[1] < 0.6 * fall[0]


def test_early_points_off_the_law_hardly_matter() -> None:
    """A plateau before the fall, as real curves have: the late points are believed."""
    late = falling(0.1, 4.0, 0.6)
    plateau = fit_shared_power_laws(batch([[late[2]] * 2 + late[2:]])).curves
    assert at(plateau, 0, 242) == pytest.approx(0.1 + 4 * 242**-0.6, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_stderr_says_how_far_predictions_are_off(seed: int) -> None:
    seen, twice, _ = synthetic(seed, 100, 0.01)
    fit = fit_shared_power_laws(seen)
    off = np.abs(each(fit.curves, 100, 242) - twice) / fit.stderr
    assert np.mean(off <= 2) >= 0.9
    assert np.mean(off) >= 0.15  # nor is it a mere excuse


def test_noise_that_is_not_stated_is_found_in_the_batch() -> None:
    for noise in (0.004, 0.03):
        seen, _, far = synthetic(1, 40, noise)
        unstated = sightings(seen.group, seen.samples, seen.loss, None, 40)
        told, found = (each(fit_shared_power_laws(one).curves, 40, 1000) for one in (seen, unstated))
        assert np.abs(found - told).mean() <= max(0.02, 1.2 * noise)
        assert np.sqrt(((found - far) ** 2).mean()) <= 1.3 * np.sqrt(((told - far) ** 2).mean())


def test_the_order_of_groups_and_points_does_not_matter() -> None:
    seen, _, _ = synthetic(2, 20, 0.02)
    random = np.random.default_rng(0)
    renamed, shuffled = random.permutation(20), random.permutation(len(seen.group))
    group, samples, loss = renamed[seen.group][shuffled], seen.samples[shuffled], seen.loss[shuffled]
    moved = sightings(group, samples, loss, np.full(120, 0.02), 20)
    one, other = fit_shared_power_laws(seen), fit_shared_power_laws(moved)
    assert each(other.curves, 20, 1000)[renamed] == pytest.approx(each(one.curves, 20, 1000), rel=1e-9)
    assert other.stderr[renamed] == pytest.approx(one.stderr, rel=1e-9)


def test_the_unit_of_the_loss_does_not_matter() -> None:
    seen, _, _ = synthetic(3, 10, 0.02)
    assert seen.stderr is not None
    scaled = sightings(seen.group, seen.samples, seen.loss * 1024, seen.stderr * 1024, 10)
    one, other = fit_shared_power_laws(seen).curves, fit_shared_power_laws(scaled).curves
    assert other.exponent.tolist() == one.exponent.tolist()
    assert other.scale == pytest.approx(one.scale * 1024, rel=1e-9)


def posterior(seen: Sightings, level: Floats) -> tuple[list[float], list[float]]:
    """Loss now and the posterior deviation at twice that, of each group, cell by cell on a grid of levels."""
    cells = [(0.0, 1.0)] + [(part, power) for part in beliefs.PARTS.tolist() for power in beliefs.EXPONENTS.tolist()]
    states = [(stray, *cell) for stray in beliefs.DISCREPANCIES for cell in cells]
    base = np.array([beliefs.FLAT if part == 0 else (1 - beliefs.FLAT) / (len(cells) - 1) for _, part, _ in states])
    base /= len(beliefs.DISCREPANCIES)
    likelihood, means, squares = [], [], []
    for group in range(len(seen.starts) - 1):
        points = slice(*seen.starts[group : group + 2])
        size, loss, error = seen.samples[points], seen.loss[points], np.full(points.stop - points.start, 0.05)
        now, unit = size.max(), loss.mean()
        row = []
        for stray, part, power in states:
            shape = 1 - part + part * (size / now) ** -power
            deviation = np.sqrt((error / unit) ** 2 + (stray * np.log(now / size)) ** 2)
            away = (loss[:, None] / unit - level * shape[:, None]) / deviation[:, None]
            density = np.exp(-0.5 * (away**2).sum(axis=0)) / deviation.prod()
            later = 1 - part + part * 2**-power
            mean = (density * level).sum() / density.sum()
            spread = (density * level**2).sum() / density.sum() * (later**2) + (stray * math.log(2) * mean) ** 2
            row.append((density.sum(), mean, mean * later, spread))
        likelihood.append([entry[0] for entry in row])
        means.append([entry[1] * unit for entry in row])
        squares.append([(entry[2] * unit, entry[3] * unit**2) for entry in row])
    table, prior = np.array(likelihood), base
    for _ in range(beliefs.SWEEPS):
        votes = table * prior / (table * prior).sum(axis=1, keepdims=True)
        prior = (beliefs.HELD_BACK * base + votes.sum(axis=0)) / (beliefs.HELD_BACK + len(table))
    belief = table * prior / (table * prior).sum(axis=1, keepdims=True)
    moments = [np.array(row) for row in squares]
    now_loss = [float(weight @ np.array(mean)) for weight, mean in zip(belief, means, strict=True)]
    pairs = [(weight @ row[:, 0], weight @ row[:, 1]) for weight, row in zip(belief, moments, strict=True)]
    return now_loss, [math.sqrt(square - mean**2) for mean, square in pairs]


def test_the_posterior_is_that_of_plain_integration() -> None:
    seen = batch([[0.5, 0.42, 0.4, 0.31], [0.3, 0.31, 0.28], [0.6, 0.5]], 0.05)
    loss, deviation = posterior(seen, np.linspace(-1.0, 3.0, 4001))
    fit = fit_shared_power_laws(seen)
    for group, now in enumerate([54, 36, 24]):
        assert at(fit.curves, group, now) == pytest.approx(loss[group], rel=1e-6)
    assert fit.stderr == pytest.approx(deviation, rel=1e-6)


def test_many_points_count_for_no_more_than_a_few() -> None:
    """Twelve times the same points say what they said, of the curve's shape."""
    once = batch([falling(0.1, 2.0, 0.5)])
    group, samples = np.tile(once.group, 12), np.tile(once.samples, 12)
    often = sightings(group, samples, np.tile(once.loss, 12), np.full(72, 0.01), 1)
    assert fit_shared_power_laws(often).curves.loss(np.zeros(1, np.int64), np.array([1000])) == pytest.approx(
        [at(fit_shared_power_laws(once).curves, 0, 1000)], rel=0.02
    )


EDGES: dict[str, tuple[list[int], list[float], list[float] | None]] = {
    "one point": ([7], [0.3], [0.01]),
    "one point, no stderr": ([1], [0.3], None),
    "two points": ([10, 20], [0.4, 0.3], [0.01, 0.02]),
    "one size": ([10, 10, 10], [0.4, 0.3, 0.2], [0.01] * 3),
    "equal points": ([10, 20, 40], [0.25] * 3, None),
    "no loss at all": ([10, 20, 40], [0.0] * 3, [0.01] * 3),
    "a loss that vanishes": ([10, 20, 40], [0.5, 0.1, 0.0], [1e-9] * 3),
    "no noise to speak of": ([10, 20, 40], [0.5, 0.4, 0.35], [1e-300, 1e-12, 5e-324]),
    "nothing but noise": ([10, 20, 40], [0.5, 0.4, 0.35], [1e300, 1e12, 1.7e308]),
    "huge counts": ([1, 2**40, 2**53], [0.5, 0.4, 0.35], [0.01] * 3),
    "huge losses": ([10, 20, 40], [1e308, 1.5e308, 1.7e308], [1e306] * 3),
    "tiny losses": ([10, 20, 40], [5e-324, 1e-310, 1e-320], [1e-310] * 3),
}


@pytest.mark.parametrize("edge", EDGES)
def test_the_edges_have_sound_curves(edge: str) -> None:
    sizes, losses, errors = EDGES[edge]
    ordinary, count = falling(0.1, 2.0, 0.5), len(sizes)
    for others in (0, 1):
        group = np.array([0] * count + [1] * 6 * others)
        loss = np.array(losses + ordinary * others)
        stderr = None if errors is None else np.array(errors + [0.01] * 6 * others)
        fit = fit_shared_power_laws(sightings(group, np.array(sizes + SIZES * others), loss, stderr, 1 + others))
        sound(fit)
        now = at(fit.curves, 0, max(sizes))
        assert min(losses) * (1 - 1e-4) <= now <= max(losses) * (1 + 1e-4)


def sound(fit: SharedFit) -> None:
    """All numbers are as a plan may carry them."""
    for column in (fit.curves.asymptote, fit.curves.scale, fit.stderr):
        assert np.isfinite(column).all()
        assert (column >= 0).all()
    assert (fit.curves.exponent > 0).all()
    assert (fit.curves.exponent[fit.curves.scale == 0] == 1).all()


@pytest.mark.parametrize("seed", range(20))
def test_random_batches_have_sound_curves(seed: int) -> None:
    random = np.random.default_rng(seed)
    count, groups = int(random.integers(1, 40)), int(random.integers(1, 6))
    group: Integers = np.concatenate([np.arange(groups), random.integers(0, groups, count)])
    samples = np.floor(10 ** random.uniform(0, 9, len(group))).astype(np.int64)
    loss = random.choice([0.0, 0.5, 1.0], len(group)) * 10 ** random.uniform(-3, 3, len(group))
    stderr = None if seed % 2 else 10 ** random.uniform(-9, 3, len(group))
    sound(fit_shared_power_laws(sightings(group, samples, loss, stderr, groups)))


def task(**fields: Any) -> dict[str, Any]:
    """Three groups, of which one has a single observation."""
    return {
        "groups": {"name": ["a", "b", "new"], "collected": [121, 121, 16], "available": [500, 500, 500]},
        "observations": {
            "group": ["a"] * 6 + ["b"] * 6 + ["new"],
            "samples": [*SIZES, *SIZES, 16],
            "loss": [*falling(0.1, 2.0, 0.5), *falling(0.3, 1.0, 0.9), 0.5],
            "stderr": [0.01] * 13,
        },
        "budget": 200.0,
        **fields,
    }


@pytest.mark.parametrize("objective", ["weighted_mean", "worst_group", "alpha_fair"])
def test_plans_under_the_default_model_hold_and_agree_with_the_program(objective: str) -> None:
    spec = eq.CollectionBudgets(**task(objective=objective))
    assert spec.model == "shared_power_law"
    plan, program = eq.solve(spec), eq.solve(spec, "exact", backend="highs")
    assert eq.check(spec, plan).ok
    fits = [one.fields()["fit"] for one in (plan, program)]
    assert all((fits[0][column] == fits[1][column]).all() for column in fits[1])
    assert plan.certificate.objective == pytest.approx(program.certificate.objective, rel=1e-4)
    assert plan.samples[2] > 0  # of which there is least, and most to be hoped for


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".safetensors"])
def test_a_saved_fit_is_read_back_with_its_standard_errors(tmp_path: Path, suffix: str) -> None:
    spec = eq.CollectionBudgets(**task())
    plan = eq.solve(spec)
    eq.save(plan, tmp_path / f"plan{suffix}", spec=spec)
    assert eq.load_plan(tmp_path / f"plan{suffix}") == plan


@pytest.mark.parametrize(("model", "wanted"), [("shared_power_law", "must be there"), ("power_law", "must be absent")])
def test_standard_errors_are_there_exactly_under_the_shared_model(model: str, wanted: str) -> None:
    fields = task(model=model)
    if model == "power_law":
        fields["observations"] = {name: [*column, *column[-1:] * 2] for name, column in fields["observations"].items()}
    spec = eq.CollectionBudgets(**fields)
    plan = eq.solve(spec)
    fit = {**plan.fields()["fit"]}
    fit = {name: column for name, column in fit.items() if name != "stderr"} if "stderr" in fit else fit
    fit = fit if model == "shared_power_law" else {**fit, "stderr": fit["error"]}
    problems = eq.check(spec, type(plan)(**{**plan.fields(), "fit": fit})).problems
    assert problems == (f"shape: fit.stderr {wanted} under the model {model}",)


def test_a_group_without_any_observation_is_refused() -> None:
    fields = task()
    fields["observations"] = {name: column[:-1] for name, column in fields["observations"].items()}
    with pytest.raises(eq.SpecError, match="observations: hold 0 of group 'new', and a shared_power_law needs 1"):
        eq.CollectionBudgets(**fields)


def test_too_few_observations_for_a_power_law_of_its_own_name_the_model_that_makes_do() -> None:
    with pytest.raises(eq.SpecError, match="or set model to shared_power_law, for which 1 will do"):
        eq.CollectionBudgets(**task(model="power_law"))
