"""Questions whose answers can be verified: strings of digits, to be reversed or sorted, harder with their length."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHARACTERS = "0123456789rs>$_"
START, END, PAD = (CHARACTERS.index(sign) for sign in ">$_")
SHORTEST = 2
"""Digits of the easiest questions."""

_CODES = {character: code for code, character in enumerate(CHARACTERS)}


@dataclass(frozen=True)
class Tasks:
    """Questions and their answers, in codes of characters.

    questions, answers: (tasks, longest + 1) int64. A question is padded in front, an answer ends with END and is padded
    behind.
    """

    questions: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, rows: np.ndarray) -> Tasks:
        """Those of some rows."""
        place = torch.from_numpy(rows).to(self.questions.device)
        return Tasks(self.questions[place], self.answers[place])


def possible(longest: int) -> int:
    """How many questions there are with up to `longest` digits."""
    return 2 * sum(10**digits for digits in range(SHORTEST, longest + 1))


def draw(random: np.random.Generator, count: int, longest: int, without: Collection[str] = ()) -> list[str]:
    """Different questions, such as "r2718": a verb and 2 to `longest` digits, every length as likely as another."""
    found: dict[str, None] = {}
    while len(found) < count:
        digits = random.integers(0, 10, random.integers(SHORTEST, longest + 1))
        question = "rs"[random.integers(2)] + "".join(map(str, digits))
        if question not in without:
            found[question] = None
    return list(found)


def encode(questions: Iterable[str], longest: int, device: str) -> Tasks:
    """Questions with their answers, as tensors."""
    asked, answered = [], []
    for question in questions:
        verb, digits = question[0], question[1:]
        answer = digits[::-1] if verb == "r" else "".join(sorted(digits))
        asked.append([_CODES[character] for character in question.rjust(longest + 1, "_")])
        answered.append([_CODES[character] for character in f"{answer}$".ljust(longest + 1, "_")])
    return Tasks(torch.tensor(asked, device=device), torch.tensor(answered, device=device))
