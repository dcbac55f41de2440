"""The rollout replay: its accounts, its measures on hand-made cases, and that a seed settles it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
world: Any = importlib.import_module("rollout_world")
policies: Any = importlib.import_module("rollout_policies")
replays: Any = importlib.import_module("rollout_replay")

SMALL: Any = world.Setting(prompts=12, each=8, most=32, steps=3)
EVERYONE = {**policies.POLICIES, **policies.ROUNDS}
EXACT = [name for name in EVERYONE if not name.startswith("Reinforce-Ada")]


def step(outcomes: list[list[int]], rates: list[float], each: int = 2, least: int = 1, history: Any = None) -> Any:
    """A step whose k-th rollout of a prompt comes out as written."""
    table = np.array(outcomes)
    setting = world.Setting(prompts=len(rates), each=each, least=least, most=table.shape[1])
    wins = np.pad(np.cumsum(table, axis=1), ((0, 0), (1, 0)))
    past = history or (np.zeros(len(rates), np.int64), np.zeros(len(rates), np.int64))
    return world.Step(setting, past, wins, np.array(rates), np.random.default_rng(0))


def drawn_by(policy: Any, *step_of: Any, **fields: Any) -> Any:
    taken = step(*step_of, **fields)
    policy(taken)
    return taken


def test_the_value_is_that_of_the_mixed_groups() -> None:
    """Groups of 2, 2 and 4 rollouts; only the first and the last have both outcomes: ½·¼ + ¼·9/16."""
    taken = step([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]], [0.5, 0.9, 0.25], each=3)
    taken.draw(np.array([2, 2, 4]))
    assert taken.won.tolist() == [1, 2, 1]
    assert taken.mixed.tolist() == [True, False, True]
    assert taken.value() == pytest.approx(0.125 + 0.140625, rel=1e-15)
    assert taken.rollout_share() == 6 / 8
    assert taken.group_share() == 2 / 3
    assert taken.left == 1


def test_nothing_drawn_is_worth_nothing() -> None:
    taken = step([[1, 0]], [0.5])
    assert (taken.value(), taken.rollout_share(), taken.group_share()) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("rollouts", [[3, 3], [0, 2], [5, 0]], ids=["over the total", "taken back", "over most"])
def test_a_step_refuses_what_it_cannot_draw(rollouts: list[int]) -> None:
    taken = step([[1, 0, 1, 0], [0, 0, 0, 0]], [0.5, 0.1])
    taken.draw(np.array([1, 1]))
    with pytest.raises(ValueError, match="cannot draw"):
        taken.draw(np.array(rollouts))


def test_a_history_goes_back_visit_by_visit_until_it_has_enough() -> None:
    history = world.History(8)
    history.add(np.array([8, 8, 8]), np.array([1, 2, 3]))
    history.add(np.array([2, 6, 9]), np.array([1, 0, 9]))
    won, tried = history.counts()
    assert (won.tolist(), tried.tolist()) == ([2, 2, 9], [10, 14, 9])
    history.add(np.array([6, 8, 0]), np.array([0, 4, 0]))
    won, tried = history.counts()
    assert (won.tolist(), tried.tolist()) == ([1, 4, 9], [8, 8, 9])


def test_a_history_keeps_no_visit_that_nobody_needs() -> None:
    history = world.History(4)
    for _ in range(10):
        history.add(np.array([2, 4]), np.array([1, 1]))
    assert len(history.visits) == 2
    assert history.counts()[1].tolist() == [4, 4]


def test_rates_drift_by_the_standard_deviation_that_is_asked_for() -> None:
    setting = world.Setting(prompts=4000, steps=4, drift=0.3, most=8)
    rates = np.array([moment.rates for moment in world.moments(setting, "mixed", 1)])
    inside = ((rates > 1e-3) & (rates < 1 - 1e-3)).all(axis=0)
    change = np.diff(np.log(rates / (1 - rates))[:, inside], axis=0)
    assert change.std() == pytest.approx(0.3, rel=0.03)
    assert abs(change.mean()) < 0.01
    still = [moment.rates for moment in world.moments(world.Setting(steps=2, drift=0.0), "hard", 1)]
    np.testing.assert_allclose(still[0], still[2], rtol=1e-12)


@pytest.mark.parametrize(("regime", "least", "most"), [("hard", 0.005, 0.1), ("easy", 0.9, 0.995), ("mixed", 0, 1)])
def test_a_regime_starts_within_its_rates(regime: str, least: float, most: float) -> None:
    moment = next(iter(world.moments(world.Setting(steps=0), regime, 0)))
    assert least <= moment.rates.min() and moment.rates.max() <= most


def test_most_prompts_of_the_saturated_regime_are_at_the_ends() -> None:
    rates = next(iter(world.moments(world.Setting(prompts=1000, steps=0), "saturated", 0))).rates
    assert ((rates < 0.005).sum(), (rates > 0.995).sum()) == (350, 350)


def test_outcomes_come_out_at_their_rates() -> None:
    moment = next(iter(world.moments(world.Setting(prompts=2000, steps=0, most=100), "mixed", 2)))
    assert moment.wins.shape == (2000, 101)
    error = moment.wins[:, -1] / 100 - moment.rates
    assert abs(error.mean()) < 0.003
    assert np.abs(error).max() < 0.25


class Watched:
    """A policy, and the steps that it took."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.steps: list[Any] = []

    def __call__(self, taken: Any) -> None:
        self.policy(taken)
        self.steps.append(taken)


@pytest.mark.parametrize("name", EVERYONE)
def test_accounts_balance(name: str) -> None:
    """What is drawn is the budget, within the bounds, and every history holds what was drawn before."""
    watched = Watched(EVERYONE[name](SMALL.each))
    numbers = replays.replay(SMALL, "mixed", 3, {name: watched})[name]
    assert numbers.shape == (SMALL.steps, len(replays.MEASURES))
    visits = [(np.full(12, 8), None)]
    for taken in watched.steps:
        assert taken.drawn.sum() == taken.total if name in EXACT else taken.drawn.sum() <= taken.total
        assert taken.drawn.max() <= SMALL.most
        assert taken.drawn.min() >= (SMALL.least if name in EXACT else 0)
        assert (taken.won == taken._wins[np.arange(12), taken.drawn]).all()
        for prompt in range(12):
            tried = won = 0
            for drawn, successes in reversed(visits):
                if tried < SMALL.memory:
                    tried += int(drawn[prompt])
                    won += 0 if successes is None else int(successes[prompt])
            assert tried == taken.trials[prompt]
            if len(visits) > 1 and visits[-1][0][prompt] >= SMALL.memory:
                assert won == taken.successes[prompt]
        visits.append((taken.drawn, taken.won))


@pytest.mark.parametrize("name", EVERYONE)
def test_a_seed_settles_a_run(name: str) -> None:
    first, again, other = (
        replays.replay(SMALL, "mixed", seed, {name: EVERYONE[name](SMALL.each)})[name][:, :5] for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_policy_fares_the_same_whoever_else_is_in_the_run() -> None:
    names = ["uniform", "Reinforce-Ada", "flat prior, 4 rounds"]
    alone = {name: replays.replay(SMALL, "hard", 1, {name: EVERYONE[name](8)})[name] for name in names}
    together = replays.replay(SMALL, "hard", 1, {name: EVERYONE[name](8) for name in names})
    for name in names:
        np.testing.assert_array_equal(alone[name][:, :5], together[name][:, :5])


def test_reinforce_ada_stops_a_prompt_once_both_outcomes_are_out() -> None:
    """Rounds of one: the first prompt is done after 2 rollouts, the second after 3, the third gets what is left."""
    outcomes = [[1, 0, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
    taken = drawn_by(policies.ReinforceAda(1, 6), outcomes, [0.5, 0.3, 0.1], each=3)
    assert taken.drawn.tolist() == [2, 3, 4]
    taken = drawn_by(policies.ReinforceAda(2, 6), outcomes, [0.5, 0.3, 0.1], each=4)
    assert taken.drawn.tolist() == [2, 4, 6]


def test_reinforce_ada_leaves_what_nobody_needs_and_stops_at_its_most() -> None:
    outcomes = [[1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    taken = drawn_by(policies.ReinforceAda(2, 4), outcomes, [0.5, 0.1], each=5)
    assert taken.drawn.tolist() == [2, 4]


def test_reinforce_ada_balanced_waits_for_two_of_each() -> None:
    outcomes = [[1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
    taken = drawn_by(policies.ReinforceAda(1, 6, 2, 2), outcomes, [0.5, 0.5], each=6)
    assert taken.drawn.tolist() == [5, 4]


def test_rounds_spend_nothing_on_groups_that_have_both_outcomes() -> None:
    outcomes = [[1, 0] + [1] * 14, [0] * 15 + [1], [0, 1] + [0] * 14]
    taken = drawn_by(policies.Posterior("fit", 4, 2), outcomes, [0.5, 0.1, 0.5], each=6, least=2)
    assert taken.drawn.tolist() == [2, 14, 2]
    assert taken.rounds == 4


@pytest.mark.parametrize("first", [2, 0.5])
def test_one_round_and_rounds_draw_as_often_as_they_say(first: float) -> None:
    outcomes = np.random.default_rng(0).integers(0, 2, (6, 16)).tolist()
    for rounds in (1, 2, 3, 5):
        taken = drawn_by(policies.Posterior("fit", rounds, first), outcomes, [0.5] * 6, each=6, least=2)
        assert (taken.rounds, taken.left) == (rounds, 0)


def test_an_oracle_needs_no_history_and_a_policy_sees_no_rates() -> None:
    outcomes = np.random.default_rng(1).integers(0, 2, (4, 16)).tolist()
    pasts = [(np.array(won), np.full(4, 8)) for won in ([0, 0, 8, 8], [4, 3, 2, 1])]
    truths = [[0.5, 0.05, 0.3, 0.9], [0.1, 0.5, 0.5, 0.2]]
    for name in ("oracle", "fitted prior", "Knapsack RL"):
        plans = {
            (past, truth): tuple(
                drawn_by(EVERYONE[name](8), outcomes, truths[truth], each=6, least=2, history=pasts[past]).drawn
            )
            for past in (0, 1)
            for truth in (0, 1)
        }
        seen = 1 if name == "oracle" else 0
        assert all((plans[one] == plans[other]) == (one[seen] == other[seen]) for one in plans for other in plans)


def test_the_summary_sets_values_against_uniform_and_oracle_run_by_run() -> None:
    def run(**values: float) -> dict[str, Any]:
        return {name: np.array([[value, 0.5, 0.25, 1.0, 1.0, 3.0]]) for name, value in values.items()}

    found = replays.summary([run(uniform=1.0, oracle=2.0, ours=1.5), run(uniform=2.0, oracle=3.0, ours=2.5)])
    assert found["ours"]["value"].mean == 2.0
    assert found["ours"]["value"].spread == pytest.approx(1.96 * 0.5)
    assert found["ours"]["of uniform"].mean == pytest.approx((1.5 + 1.25) / 2)
    assert found["ours"]["of oracle"].mean == pytest.approx((1.5 / 2 + 2.5 / 3) / 2)
    assert found["uniform"]["of uniform"].spread == 0.0
    assert found["ours"]["plan"].mean == 3.0


def test_rounds_are_worth_more_than_one_round_and_that_more_than_uniform() -> None:
    """In the mean over a few runs, by margins far beyond their noise."""
    setting = world.Setting(prompts=128, steps=2)
    names = ["uniform", "fitted prior", "fitted prior, 4 rounds"]
    runs = [replays.replay(setting, "mixed", seed, {name: EVERYONE[name](8) for name in names}) for seed in range(3)]
    values = {name: np.mean([run[name][:, 0].mean() for run in runs]) for name in names}
    assert values["fitted prior, 4 rounds"] > 1.04 * values["fitted prior"]
    assert values["fitted prior"] > 1.01 * values["uniform"]


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    estimate = replays.Estimate(1.0, 0.1)
    row = {"value": estimate, "of oracle": estimate}
    replays.draw({"mixed": {"uniform": row, "fitted prior": row}, "hard": {"uniform": row, "fitted prior": row}},
                 tmp_path / "plot.png")  # fmt: skip
    assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"


def test_the_command_line_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    line = "replay --json --runs 2 --steps 1 --prompts 8 --most 16 --regimes hard --policies uniform Neyman"
    monkeypatch.setattr(sys, "argv", line.split())
    replays.main()
    told = json.loads(capsys.readouterr().out)
    assert told["setting"]["prompts"] == 8
    assert list(told["results"]["hard"]) == ["uniform", "Neyman"]
    assert told["results"]["hard"]["Neyman"]["drawn"] == {"mean": 1.0, "spread": 0.0}


def test_an_unknown_policy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["replay", "--policies", "psychic"])
    with pytest.raises(SystemExit, match="psychic"):
        replays.main()
