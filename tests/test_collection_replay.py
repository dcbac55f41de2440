"""The collection replay: its accounts on hand-made curves, its oracles against brute force, and its command line."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
world: Any = importlib.import_module("collection_world")
policies: Any = importlib.import_module("collection_policies")
replays: Any = importlib.import_module("collection_replay")

SMALL: Any = world.Setting(groups=3, budget=60, lot=10, points=4)
ANCHORS = np.array([16, 32, 64, 128, 256])


def hand_made(noise: float = 0.01, start: tuple[int, ...] = (32, 40, 64)) -> Any:
    """Three groups: one falls, one is flat, one rises before it falls."""
    losses = [[0.8, 0.6, 0.4, 0.3, 0.2], [0.5] * 5, [0.3, 0.4, 0.5, 0.3, 0.1]]
    stderr = np.full(5, noise)
    curves = tuple(
        world.Curve(f"set {row}", "tree", ANCHORS, np.array(loss), stderr) for row, loss in enumerate(losses)
    )
    return world.Draw(curves, np.array(start), (7, 0))


def test_errors_are_interpolated_in_the_logarithm_of_the_size() -> None:
    assert hand_made().error(np.array([64, 16, 181])) == pytest.approx([0.4, 0.5, 0.2], abs=1e-3)


def test_observations_are_noisy_points_up_to_what_is_held_the_same_for_everyone() -> None:
    draw = hand_made()
    seen, again, later = (draw.observe(SMALL, draw.start, time) for time in (0, 0, 1))
    for group, size in enumerate(draw.start.tolist()):
        sizes = seen.samples[seen.group == group]
        assert (sizes[0], sizes[-1], len(sizes)) == (16, size, 4)
    assert (seen.loss == again.loss).all()
    assert (seen.loss != later.loss).any()
    assert (seen.stderr == 0.01).all()
    away = [draw.observe(SMALL, draw.start, time).loss[seen.group == 1] - 0.5 for time in range(200)]
    assert np.std(away) == pytest.approx(0.01, rel=0.1)


def test_without_noise_observations_are_the_curve() -> None:
    draw = hand_made()
    seen = draw.observe(world.Setting(groups=3, points=4, noise=0.0), draw.start, 0)
    assert seen.loss[seen.group == 0][[0, -1]] == pytest.approx([0.8, 0.6])
    assert (seen.stderr == 0).all()


def test_nothing_is_on_offer_past_the_end_of_a_curve() -> None:
    options = hand_made(start=(226, 40, 64)).options(SMALL)
    assert np.isfinite(options[0]).tolist() == [True] * 4 + [False] * 3
    assert np.isfinite(options[1:]).all()


@pytest.mark.parametrize("seed", range(20))
def test_the_oracles_are_optimal(seed: int) -> None:
    random = np.random.default_rng(seed)
    error = random.uniform(0, 1, (3, 5)).round(2)
    error[0, 3:] = np.inf
    choices = [lots for lots in itertools.product(range(5), repeat=3) if sum(lots) <= 4]
    reached = {lots: [error[group, count] for group, count in enumerate(lots)] for lots in choices}
    best = world.cheapest(error, 4)
    assert best.sum() <= 4
    assert sum(reached[tuple(best.tolist())]) == pytest.approx(min(map(sum, reached.values())))
    lowest = min(map(max, reached.values()))
    fair = reached[tuple(world.most_level(error, 4, 1e-3).tolist())]
    assert max(fair) <= lowest * (1 + 1e-3)
    level = [row for row in reached.values() if max(row) <= lowest * (1 + 1e-3)]
    assert sum(fair) == pytest.approx(min(map(sum, level)))


@pytest.mark.parametrize("seed", range(20))
def test_a_part_of_a_plan_is_whole_lots_in_proportion(seed: int) -> None:
    random = np.random.default_rng(seed)
    whole, plan = int(random.integers(1, 50)), np.zeros(4, np.int64)
    np.add.at(plan, random.integers(0, 4, int(random.integers(0, whole + 1))), 1)
    part = int(random.integers(1, whole + 1))
    lots = policies.part_of(plan, part, whole)
    assert (np.abs(lots - plan * part / whole) < 1).all()
    assert (lots <= plan).all()
    assert lots.sum() == -(-int(plan.sum()) * part // whole)


@pytest.mark.parametrize("policy", policies.party(3), ids=lambda policy: policy.name)
def test_every_policy_keeps_to_budget_lots_and_the_ends_of_curves(policy: Any) -> None:
    draw, bought = hand_made(), list[Any]()
    if policy.buy is not None:
        inner = policy.buy

        def recorded(now: Any) -> Any:
            samples = inner(now)
            assert (samples >= 0).all()
            assert (samples % 10 == 0).all()
            assert (samples <= now.available).all()
            assert samples.sum() <= now.budget <= now.left
            bought.append(samples)
            return samples

        policy = policies.Policy(policy.name, recorded, policy.rounds, policy.whole)
    reached = policy.play(draw, SMALL)
    if bought:
        assert len(bought) == policy.rounds
        assert np.sum(bought) <= 60
        assert reached == pytest.approx(draw.error(draw.start + np.sum(bought, axis=0)))
    assert (policy.play(draw, SMALL) == reached).all()


def test_equal_buying_is_equal() -> None:
    equal = next(policy for policy in policies.party(1) if policy.name == "equal")
    assert equal.play(hand_made(), SMALL) == pytest.approx(hand_made().error(np.array([52, 60, 84])))


def test_slice_tuner_minimises_its_own_sum() -> None:
    """Exact power laws without noise: the purchase is that of trying all."""
    sizes = np.array([16, 32, 64])
    laws = [(2.0, 0.5), (1.0, 0.1), (0.3, 0.3)]
    seen = world.Seen(
        np.repeat(np.arange(3), 3),
        np.tile(sizes, 3),
        np.concatenate([scale * sizes**-power for scale, power in laws]),
        np.full(9, 0.01),
    )
    start = np.array([64, 64, 64])
    bought = policies.slice_tuner(policies.Purchase(SMALL, start, np.array([30, 500, 500]), seen, 60, 60))
    mean = np.mean([scale * 64.0**-power for scale, power in laws])

    def total(lots: tuple[int, ...]) -> float:
        losses = [scale * (64.0 + 10 * count) ** -power for (scale, power), count in zip(laws, lots, strict=True)]
        return sum(losses) + policies.UNFAIRNESS * sum(max(loss / mean - 1, 0) for loss in losses)

    every = [lots for lots in itertools.product(range(7), repeat=3) if sum(lots) == 6 and lots[0] <= 3]
    assert total(tuple((bought // 10).tolist())) == pytest.approx(min(map(total, every)))


def test_shares_lie_between_equal_buying_and_the_oracle() -> None:
    found = {
        "equal": (np.array([[0.4, 0.6], [0.5, 0.7]]), 0.0),
        "half": (np.array([[0.3, 0.6], [0.45, 0.65]]), 0.002),
        "oracle, mean": (np.array([[0.3, 0.5], [0.4, 0.6]]), 0.0),
    }
    table = {row.policy: row for row in replays.rows(found, seed=0)}
    assert [table[name].share for name in found] == pytest.approx([0.0, 0.5, 1.0])
    assert table["half"].mean == pytest.approx(0.5)
    assert table["half"].worst == pytest.approx(0.625)
    assert [table["half"].share_low, table["half"].share_high] == pytest.approx([0.5, 0.5])
    assert table["half"].milliseconds == 2.0


def test_a_share_of_nothing_is_no_number() -> None:
    assert np.isnan(replays.shares(np.ones(3), np.ones(3), np.ones(3)))


def written(path: Path, sets: int) -> Path:
    """A CSV of falling curves, one of them under a name that two data sets share."""
    lines = ["dataset,learner,samples,error_mean,error_stderr"]
    for row in range(sets):
        lines += [f"set {row},tree,{size},{0.1 + (0.5 + row / 10) * size**-0.4:.4f},0.005" for size in ANCHORS.tolist()]
    lines += [f"twice,tree,{size},0.3,0.005" for size in ANCHORS.tolist() * 2]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["collection_replay.py", *arguments])
    replays.main()


def test_the_command_line_prints_the_same_numbers_for_the_same_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "curves.csv", 4)
    options = ["--curves", str(path), "--draws", "2", "--groups", "3", "--budget", "120", "--rounds", "2"]
    options += ["--least-end", "256", "--policies", "shared", "--json"]
    found = list[Any]()
    for seed in ("1", "1", "2"):
        run(monkeypatch, *options, "--seed", seed)
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["data_sets"] == [f"set {row}" for row in range(4)]  # not the one of two data sets
    assert found[0]["setting"]["budget"] == 120
    names = [row["policy"] for row in found[0]["rows"]]
    assert names[0] == "equal"
    assert names[-1] == "oracle, mean"
    assert "shared, mean, rounds ahead" in names
    means = [[row["mean"] for row in one["rows"]] for one in found]
    assert means[0] == means[1] != means[2]
    run(monkeypatch, *options[:-1])
    assert "shared, mean, rounds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--draws", "0"], "--draws must be at least 1"),
        (["--budget", "30", "--rounds", "4"], "buys fewer than 4 lots"),
        (["--noise", "-1"], "--noise and --seed must be at least 0"),
        (["--curves", "nowhere.csv"], "there is no file nowhere.csv"),
        (["--groups", "9", "--least-end", "256"], "4 data sets qualify, and 9 groups"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = written(tmp_path / "curves.csv", 4)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--curves", str(path), *arguments)
    assert says in capsys.readouterr().err + str(caught.value)
