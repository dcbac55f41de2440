"""The collection loop: a small run from the command line, and what it rests on: splits, learners, looks, purchases."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from equipoise.examples import collect_data
from equipoise.examples.collection.buyers import SHARES, Standing, cross_validated, equal, purchase, spread
from equipoise.examples.collection.learners import School, Training
from equipoise.examples.collection.report import Story, verdict
from equipoise.examples.collection.slices import OFFERS, Offer, digits, scanners, split

SCRIPT = Path(__file__).parents[2] / "examples" / "collect_data.py"
SMALL = ("--seeds", "2", "--rounds", "2", "--labels", "2", "--start", "4", "--hidden", "8")


def standing(**changes: object) -> Standing:
    collected = np.array([4, 4, 4])
    one = Standing(
        seed=0, turn=1, held=np.arange(12), collected=collected, pool=np.array([9, 50, 50]), cost=np.ones(3),
        money=30.0, left=60.0,
    )  # fmt: skip
    return replace(one, **changes)


def test_a_small_run_buys_plans_tells_and_plots(tmp_path: Path) -> None:
    flags = (*SMALL, "--groups", "digits", "--costs", "1", "2", "--out", str(tmp_path / "plot.svg"))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for text in ("equal", "proportional", "planned: worst", "planned: mean", "worst error", "digit 9", "2 seeds"):
        assert text in done.stdout
    assert done.stdout.count("planned: mean against equal") == 2
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--start", "3"), "--start: must be at least 4, got 3"),
        (("--floor", "1.5"), "--floor: must be from 0 to 1, got 1.5"),
        (("--rarest", "0"), "--rarest: must be above 0 and at most 1, got 0"),
        (("--costs", "1", "0"), "--costs: must be positive and finite"),
    ],
)
def test_bad_flags_are_told_apart(
    flags: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["collect_data.py", *flags])
    with pytest.raises(SystemExit, match="2"):
        collect_data.arguments()
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", OFFERS)
def test_no_digit_is_both_in_the_pool_and_in_the_test(name: str) -> None:
    offer = OFFERS[name]()
    made = split(offer, 0.6, 0.25, np.random.default_rng(3))
    assert not set(offer.source[made.pool]) & set(offer.source[made.test])
    assert (np.diff(offer.group) >= 0).all() and (np.diff(made.pool) > 0).all()
    pool = np.bincount(offer.group[made.pool])
    assert pool.min() / pool.max() == pytest.approx(0.25, abs=0.06)
    assert np.bincount(offer.group[made.test]).min() >= 60


def test_every_scanner_sees_every_digit_in_its_own_way() -> None:
    offer = scanners()
    assert offer.images.min() >= 0 and offer.images.max() <= 1
    of_first = offer.images[offer.source == 0]
    assert len(np.unique(of_first, axis=0)) == len(of_first) == len(offer.names)
    assert len(set(offer.label[offer.source == 0].tolist())) == 1


def test_learners_of_a_stack_are_trained_as_if_each_were_alone() -> None:
    offer, random = digits(), np.random.default_rng(4)
    school = School(offer, Training(hidden=8, steps=30), "cpu")
    study = [random.permutation(len(offer.label))[:size] for size in (200, 50)]
    exam = [random.permutation(len(offer.label))[:size] for size in (90, 300)]
    together = school.marks(study, exam, [5, 6])
    assert [len(mark.loss) for mark in together] == [90, 300]
    assert together[0].error.mean() < 0.5  # chance is 0.9
    for at, mark in enumerate(together):
        (alone,) = school.marks(study[at : at + 1], exam[at : at + 1], [5 + at])
        assert mark.loss == pytest.approx(alone.loss, rel=1e-2, abs=1e-3)


def test_a_round_spends_what_it_can_in_the_proportions_asked_for() -> None:
    assert spread(np.array([0.0, 2.0, 1.0]), standing()).tolist() == [0, 20, 10]
    assert spread(np.ones(3), standing()).tolist() == [5, 13, 12]  # the first is sold out
    costly = standing(cost=np.array([1.0, 2.0, 4.0]), money=21.0)
    assert spread(np.ones(3), costly).tolist() == [3, 3, 3]
    assert spread(np.array([1.0, 0.0, 0.0]), standing(money=8.0)).tolist() == [5, 2, 1]  # the rest as if equal
    assert spread(np.zeros(3), standing(money=6.0)).tolist() == [2, 2, 2]
    assert [shares.tolist() for shares in equal([standing()])] == [[1.0, 1.0, 1.0]]


def test_purchases_keep_what_is_held_and_add_other_rows_of_the_groups_asked_for() -> None:
    offer = digits()
    pool = split(offer, 0.6, 0.25, np.random.default_rng(3)).pool
    first = purchase(offer, pool, np.zeros(0, np.int64), np.full(10, 5), 7)
    more = np.array([0, 3, 0, 0, 0, 0, 0, 0, 0, 20])
    second = purchase(offer, pool, first, more, 8)
    assert set(first) <= set(second) <= set(pool)
    assert (np.bincount(offer.group[second]) - np.bincount(offer.group[first])).tolist() == more.tolist()
    assert np.array_equal(second, purchase(offer, pool, first, more, 8))
    assert not np.array_equal(second, purchase(offer, pool, first, more, 9))
    with pytest.raises(ValueError, match="digit 2: 500 labels wanted"):
        purchase(offer, pool, first, np.array([0, 0, 500, 0, 0, 0, 0, 0, 0, 0]), 8)


def one_look(offer: Offer, label: np.ndarray) -> dict[str, list[float]]:
    held = np.concatenate([np.flatnonzero(offer.group == group)[:12] for group in range(10)])
    told = Offer(offer.names, offer.images, label, offer.group, offer.source)
    run_ = standing(held=held, collected=np.full(10, 12), pool=np.full(10, 60))
    return cross_validated(School(told, Training(hidden=16, steps=60), "cpu"), [run_])[0]


def test_looks_judge_learners_on_rows_that_they_have_not_seen() -> None:
    offer = digits()
    seen = one_look(offer, offer.label)
    assert seen["group"] == list(offer.names) * len(SHARES)
    assert seen["samples"] == [3] * 10 + [5] * 10 + [9] * 10  # 12 labels, of which a fold of 3 is kept aside
    assert np.mean(seen["loss"][-10:]) < np.mean(seen["loss"][:10])
    assert min(seen["stderr"]) > 0
    # Labels at random can be learned by heart, and not foreseen: on its own rows a learner would make no mistake.
    shuffled = one_look(offer, np.random.default_rng(9).permutation(offer.label))
    assert np.mean(shuffled["loss"][-10:]) == pytest.approx(0.9, abs=0.08)


def test_words_follow_from_the_numbers() -> None:
    def story(error: list[float]) -> Story:
        marks = np.broadcast_to(np.array(error)[None, :, None, None], (1, 3, 2, 4))
        return Story(marks, np.zeros((1, 3)), np.zeros((3, 4), np.int64))

    stories = {
        "equal": story([0.3, 0.4, 0.5]),
        "better": story([0.2, 0.31, 0.4]),
        "worse": story([0.4, 0.51, 0.6]),
        "unclear": story([0.1, 0.6, 0.5]),
    }
    said = verdict(stories, ["better", "worse", "unclear"], "equal")
    assert [line.rsplit(": ", 1)[1] for line in said[::2]] == [
        "planning helps",
        "planning HURTS",
        "no difference shown",
    ]
    assert "lower by +0.0967" in said[0] and "lower by -0.1033" in said[2]
