"""How many rollouts should each prompt get? The history of one maths reinforcement-learning batch, simulated.

No measurement: a model of what trainers report, so that the example has every case a planner must survive.
256 prompts, each with a true success rate that the table does not show, drawn from a mixture:

    share   rate          what it stands for
    0.15    Beta(1, 200)  saturated at 0: beyond the model, or the checker rejects every answer
    0.25    Beta(1, 9)    hard: solved once in ten on average
    0.30    Beta(2, 2)    mid: where groups carry most gradient
    0.15    Beta(8, 2)    easy
    0.15    Beta(200, 1)  saturated at 1: already learnt

`trials` are the rollouts seen so far: 8 for 70 % of prompts (one earlier epoch), 16 for 15 % (two), and
0 to 4, evenly, for 15 % (prompts new to the run). `successes` ~ Binomial(trials, rate).
`tokens` is the expected length of one more rollout, in tokens, cut at a generation limit of 8,192. It is
log-normal, exp(Normal(log 600 + 1.5 (1 - rate), 0.4)), so that a prompt that is never solved takes
e^1.5 = 4.5 times as long as one that always is.

Shares and lengths are our choice, not taken from a run. Prompts with no success yet, or nothing but, are
common on purpose: a plan made from observed rates alone sets them aside (Knapsack RL, arXiv 2509.25849).
"""

import argparse
import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parents[2] / "specs" / "examples" / "data"
SEED = 256
PROMPTS = 256

Counts = NDArray[np.int64]


class Difficulty(NamedTuple):
    """One part of the mixture: its share of the prompts, and Beta(alpha, beta) over their success rates."""

    share: float
    alpha: float
    beta: float


MIXTURE = {
    "saturated at 0": Difficulty(0.15, 1, 200),
    "hard": Difficulty(0.25, 1, 9),
    "mid": Difficulty(0.30, 2, 2),
    "easy": Difficulty(0.15, 8, 2),
    "saturated at 1": Difficulty(0.15, 200, 1),
}
TRIALS = {8: 0.70, 16: 0.15, 0: 0.03, 1: 0.03, 2: 0.03, 3: 0.03, 4: 0.03}  # probability of each count
MASTERED_TOKENS, DIFFICULTY_EFFECT, SPREAD = 600, 1.5, 0.4  # median at rate 1; of the logarithm; likewise
GENERATION_LIMIT = 8_192  # tokens


class History(NamedTuple):
    """The columns of the table, one entry per prompt."""

    successes: Counts
    trials: Counts
    tokens: Counts


def draw_history(prompts: int, rng: np.random.Generator) -> History:
    """Success rates from the mixture, then what a trainer would have seen of them."""
    share, alpha, beta = np.array(list(MIXTURE.values())).T
    part = rng.choice(len(MIXTURE), size=prompts, p=share)
    rate = rng.beta(alpha[part], beta[part])
    trials = rng.choice(list(TRIALS), size=prompts, p=list(TRIALS.values()))
    successes = rng.binomial(trials, rate)
    median_tokens = MASTERED_TOKENS * np.exp(DIFFICULTY_EFFECT * (1 - rate))
    tokens = median_tokens * rng.lognormal(sigma=SPREAD, size=prompts)
    return History(successes, trials, np.minimum(np.rint(tokens), GENERATION_LIMIT).astype(np.int64))


def summary(history: History) -> str:
    """A few numbers by which to recognise the batch."""
    seen = history.trials > 0
    none = seen & (history.successes == 0)
    every = seen & (history.successes == history.trials)
    low, median, high = np.quantile(history.tokens, [0.05, 0.5, 0.95])
    return (
        f"{len(seen)} prompts: {np.count_nonzero(~seen)} never tried, "
        f"{np.count_nonzero(none)} without a success, {np.count_nonzero(every)} with nothing but; "
        f"{history.successes.sum()} of {history.trials.sum()} rollouts succeeded; "
        f"tokens 5 % {low:.0f}, median {median:.0f}, 95 % {high:.0f}, most {history.tokens.max()}"
    )


def write_table(path: Path, history: History) -> None:
    """A CSV that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(History._fields)
        table.writerows(zip(*history, strict=True))
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DATA / "rollout_history.csv")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()

    history = draw_history(options.prompts, np.random.default_rng(options.seed))
    write_table(options.out, history)
    print(summary(history))


if __name__ == "__main__":
    main()
