"""A tiny policy: one recurrent network reads the question, another writes the answer from the state that is left."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .tasks import CHARACTERS, END, PAD, START


class Policy(nn.Module):
    """Answers character by character. Reading is done once per question, however many answers follow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), width)
        self.reader = nn.GRU(width, width, batch_first=True)
        self.writer = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, len(CHARACTERS))

    def read(self, questions: Tensor) -> Tensor:
        """(questions, width) the state that each of `questions` (questions, length) leaves."""
        return self.reader(self.embedding(questions))[1][0]

    def log_likelihood(self, states: Tensor, answers: Tensor) -> Tensor:
        """(answers,) log-probability of each of `answers` (answers, length) from its state, up to its END."""
        before = torch.cat([torch.full_like(answers[:, :1], START), answers[:, :-1]], 1)
        written, _ = self.writer(self.embedding(before), states[None])
        each = self._log_probabilities(written).gather(2, answers[..., None])[..., 0]
        return each.masked_fill(answers == PAD, 0).sum(1)

    @torch.no_grad()
    def sample(self, states: Tensor, length: int, generator: torch.Generator) -> Tensor:
        """(states, length) an answer from each state, at temperature 1; what never ends is cut."""
        answers = torch.full((len(states), length), PAD, device=states.device)
        character = torch.full_like(answers[:, 0], START)
        ended = torch.zeros_like(character, dtype=torch.bool)
        memory = states[None].contiguous()
        for place in range(length):
            written, memory = self.writer(self.embedding(character[:, None]), memory)
            chances = self._log_probabilities(written[:, 0]).exp()
            # The first of several exponential clocks to ring is each with its probability; no wait for the device.
            character = (chances / torch.empty_like(chances).exponential_(generator=generator)).argmax(1)
            answers[:, place] = character.masked_fill(ended, PAD)
            ended = ended | (character == END)
        return answers

    def _log_probabilities(self, written: Tensor) -> Tensor:
        """PAD is no character: were it left in, nothing would hold its probability down, since it is never sampled."""
        logits = self.head(written)
        barred = torch.arange(len(CHARACTERS), device=logits.device) == PAD
        return logits.masked_fill(barred, -torch.inf).log_softmax(-1)
