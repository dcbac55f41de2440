"""The loop that trains by GRPO under rollout budgets: its accounts, its gradient, what it says, and that it runs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import equipoise as eq

from ..service.running import running

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
budgets: Any = importlib.import_module("grpo.budgets")
model: Any = importlib.import_module("grpo.model")
report: Any = importlib.import_module("grpo.report")
tasks: Any = importlib.import_module("grpo.tasks")
training: Any = importlib.import_module("grpo.training")

TINY = (
    "--seeds 2 --steps 3 --prompts 8 --rollouts 4 --most 8 --pool 16 --held 32 --longest 3 --width 8 --warm-up 3 "
    "--judge-every 2 --workers 1"
)


def loop(*flags: str) -> subprocess.CompletedProcess[str]:
    """The loop in a process of its own, every warning an error."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / "grpo_budgets.py"), *flags]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_the_loop_trains_compares_and_draws(tmp_path: Path) -> None:
    plot = tmp_path / "deep" / "plot.svg"
    done = loop(*TINY.split(), "--out", str(plot))
    assert done.returncode == 0, done.stderr
    for words in ("uniform", "planned, 1 round", "planned, 3 rounds", "Largest gap of any plan's certificate: 0.0e+00"):
        assert words in done.stdout
    assert done.stdout.count("Reward: at the end budgets") == 2
    assert plot.read_text(encoding="utf-8").rstrip().endswith("</svg>")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--steps 0", "argument --steps: must be at least 1, got 0"),
        ("--rounds 1 0", "argument --rounds: must be at least 1, got 0"),
        ("--width wide", "argument --width: invalid whole number value: 'wide'"),
        ("--seeds 0", "--seeds: must be at least 1, got 0"),
        ("--rollouts 1", "--rollouts: must be from --least 2 to --most 64, got 1"),
        ("--pool 8", "--pool: must be at least --prompts, 64, got 8"),
        ("--longest 2", "--longest: 2 digits have only 200 questions"),
    ],
)
def test_flags_that_cannot_be_met_are_refused(
    flags: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["grpo_budgets.py", *flags.split()])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("grpo_budgets").main()
    assert said in capsys.readouterr().err


def test_questions_are_reversed_and_sorted() -> None:
    coded = tasks.encode(["r271", "s3120"], 4, "cpu")
    spelled = ["".join(tasks.CHARACTERS[code] for code in row) for row in coded.answers.tolist()]
    assert spelled == ["172$_", "0123$"]
    assert ["".join(tasks.CHARACTERS[code] for code in row) for row in coded.questions.tolist()] == ["_r271", "s3120"]


def test_questions_differ_from_each_other_and_from_those_held_out() -> None:
    random = np.random.default_rng(0)
    held = tasks.draw(random, 60, 2)
    others = tasks.draw(random, 60, 2, set(held))
    assert len({*held, *others}) == 120 < tasks.possible(2) == 200


def test_a_history_goes_back_visit_by_visit_until_it_has_enough() -> None:
    history = budgets.History(3, memory=4)
    for drawn, won in [((4, 1, 5), (4, 1, 0)), ((1, 2, 6), (0, 1, 6)), ((4, 2, 1), (2, 0, 0))]:
        history.add(np.arange(3), _step(drawn, won))
    step = history.step(np.arange(3))
    assert step.trials.tolist() == [4, 4, 7]
    assert step.successes.tolist() == [2, 1, 6]
    assert step.drawn.tolist() == step.won.tolist() == [0, 0, 0]


def test_a_prompt_that_was_never_seen_has_no_history() -> None:
    step = budgets.History(4, memory=4).step(np.array([2, 0]))
    assert step.trials.tolist() == step.successes.tolist() == [0, 0]


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("each", [2, 3, 8])
def test_every_way_to_budget_spends_the_same(rounds: int, each: int) -> None:
    random = np.random.default_rng([rounds, each])
    rates = random.beta(0.5, 0.5, 12)
    with eq.connect() as client:
        shared = budgets.Budgets(client, rounds, 12, each, least=2, most=24)
        for _ in range(3):
            trials = random.integers(0, 9, 12)
            step = _step(np.zeros(12), np.zeros(12))
            step.trials, step.successes = trials, random.binomial(trials, rates)
            for number in range(max(rounds, 1)):
                counts = shared.counts(number, step)
                assert (counts >= np.maximum(step.drawn, 2)).all()
                step.won += random.binomial(counts - step.drawn, rates)
                step.drawn = counts
            assert step.drawn.sum() == 12 * each
        shared.close()


def test_later_rounds_go_where_the_first_left_no_gradient() -> None:
    """Of prompts with the same history, those that showed both outcomes need no more."""
    with eq.connect() as client:
        shared = budgets.Budgets(client, 2, 4, 8, least=2, most=32)
        step = _step((4, 4, 4, 4), (2, 1, 0, 0))
        step.trials[:], step.successes[:] = 8, 2
        assert shared.counts(1, step).tolist() == [4, 4, 12, 12]
        shared.close()


def test_answers_come_as_often_as_their_likelihood_says() -> None:
    torch.manual_seed(0)
    policy = model.Policy(4)
    with torch.no_grad():
        policy.head.weight[:, :] *= 4
        policy.head.bias[[0, tasks.END]] += 3.0  # so that a few answers make up most of what is said
        states = policy.read(torch.tensor([[13, 10, 1], [11, 2, 3]]))
        drawn = policy.sample(states.repeat_interleave(4000, 0), 3, torch.Generator().manual_seed(1)).reshape(
            2, 4000, 3
        )
        for state, answers in zip(states, drawn, strict=True):
            seen, counts = answers.unique(dim=0, return_counts=True)
            whole = (seen == tasks.END).any(1)
            expected = policy.log_likelihood(state.expand(len(seen), -1).contiguous(), seen).exp() * 4000
            common = whole & (expected > 30)
            assert common.sum() >= 3
            error = (counts - expected)[common] / expected[common].sqrt()
            assert error.abs().max() < 4


def test_what_comes_after_the_end_is_padding_and_nothing_before_it_is() -> None:
    torch.manual_seed(1)
    states = torch.randn(500, 8)
    answers = model.Policy(8).sample(states, 6, torch.Generator().manual_seed(0))
    ended = (answers == tasks.END).cumsum(1) - (answers == tasks.END).int() > 0
    assert ended.any()
    assert torch.equal(answers == tasks.PAD, ended)


@pytest.mark.parametrize("weigh", ["rollouts", "prompts"])
def test_an_update_follows_the_gradient_of_grpo(weigh: str) -> None:
    """Held against a plain sum over samples, drawn in two rounds, of groups of 2, 5 and 3."""
    torch.manual_seed(2)
    policy = model.Policy(8).double()
    asked = tasks.encode(["r12", "s21", "r34"], 2, "cpu")
    counts = [np.array([2, 3, 1]), np.array([2, 5, 3])]
    drawn, step = training.Drawn(asked), _step((0, 0, 0), (0, 0, 0))
    for part in counts:
        drawn.extend(policy, step, part, torch.Generator().manual_seed(3))
    prompt = torch.cat([part[0] for part in drawn.parts])
    answers = torch.cat([part[1] for part in drawn.parts])
    right = torch.tensor([0, 1, 0, 1, 0, 1, 1, 0, 0, 0], dtype=torch.bool)  # groups: 0, 1 / 0, 1, 0, 1, 0 / 1, 0, 0
    assert prompt.tolist() == [0, 0, 1, 1, 1, 2, 1, 1, 2, 2]
    drawn.parts = [(prompt, answers, right)]

    expected = torch.zeros((), dtype=torch.float64)
    for group in range(3):
        rewards = right[prompt == group].double()
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        for answer, advantage in zip(answers[prompt == group], advantages, strict=True):
            share = 1 / 10 if weigh == "rollouts" else 1 / (3 * len(rewards))
            state = policy.read(asked.questions[group : group + 1])
            expected = expected - share * advantage * policy.log_likelihood(state, answer[None])[0]
    wanted = torch.autograd.grad(expected, list(policy.parameters()))
    scale = min(1.0, 1 / float(torch.stack([part.norm() for part in wanted]).norm()))

    drawn.teach(policy, torch.optim.SGD(policy.parameters(), lr=0.0), step, weigh)
    for parameter, gradient in zip(policy.parameters(), wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient * scale, rtol=1e-5, atol=1e-9)


def options(**others: Any) -> Namespace:
    """A tiny loop."""
    small = {
        "threads": 1, "held": 64, "pool": 256, "longest": 3, "width": 32, "device": "cpu", "warm_up": 80, "rate": 5e-3,
        "memory": 8, "prompts": 64, "rollouts": 8, "least": 2, "most": 32, "steps": 40, "judge_every": 16,
        "weigh": "prompts", "server": None, "rounds": [2],
    }  # fmt: skip
    return Namespace(**(small | others))


def test_training_raises_the_reward_under_every_budget() -> None:
    """Seed 0; what is told of each run fits together."""
    runs = training.train(0, options(rounds=[3, 1, 3]))
    assert [run.rounds for run in runs] == [0, 1, 3]
    for run in runs:
        assert [used for used, _ in run.judged] == [0, 16 * 512, 32 * 512, 40 * 512]
        assert run.judged[-1][1] > run.judged[0][1] + 0.1
        assert len(run.groups) == len(run.rollouts) == len(run.seconds) == len(run.planning) == 40
        assert all(0 < part < whole for part, whole in zip(run.planning, run.seconds, strict=True))
    assert runs[0].groups == runs[0].rollouts  # equal groups
    assert np.isnan(runs[0].gap) and runs[1].gap == runs[2].gap == 0.0


def test_equal_seeds_start_alike_and_end_alike() -> None:
    short = options(steps=3, judge_every=1, warm_up=10, rounds=[1])
    first, again, other = (training.train(seed, short) for seed in (5, 5, 6))
    assert [run.judged for run in first] == [run.judged for run in again]
    assert first[0].judged[0] == first[1].judged[0] != other[0].judged[0]


def test_a_service_gives_the_budgets_that_this_process_gives(tmp_path: Path) -> None:
    short = {"steps": 3, "judge_every": 1, "warm_up": 40}
    here = training.train(1, options(**short))
    with running(tmp_path) as service:
        there = training.train(1, options(**short, server=service.address))
    assert [run.judged for run in there] == [run.judged for run in here]


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((0.10, 0.11, 0.12), "at the end budgets improved the reward (+0.110"),
        ((-0.10, -0.11, -0.12), "at the end budgets lowered the reward (-0.110"),
        ((-0.10, 0.11, 0.12), "at the end budgets did not improve it to a degree that shows (+0.043"),
    ],
)
def test_what_is_said_follows_from_the_numbers(gains: tuple[float, ...], said: str) -> None:
    uniform = [_run(seed, 0, 0.4 + seed / 10) for seed in range(3)]
    planned = [_run(seed, 3, 0.4 + seed / 10 + gain) for seed, gain in enumerate(gains)]
    even, rounds = report.outcomes([*planned, *uniform])
    assert (even.name, rounds.name) == ("uniform", "planned, 3 rounds")
    assert said in report.verdict(rounds, even)


def test_one_seed_proves_nothing() -> None:
    even, planned = report.outcomes([_run(0, 0, 0.2), _run(0, 1, 0.9)])
    assert "no difference in reward can be told from chance" in report.verdict(planned, even)


def _step(drawn: Any, won: Any) -> Any:
    drawn, won = np.array(drawn, np.int64), np.array(won, np.int64)
    return budgets.Step(np.zeros_like(drawn), np.zeros_like(drawn), drawn, won)


def _run(seed: int, rounds: int, last: float) -> Any:
    return training.Run(seed, rounds, [(0, 0.1), (10, last)], [0.5], [0.5], [1.0], [0.1])
