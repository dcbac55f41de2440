"""The models of the collection loop: many small networks at once, each trained on rows of its own.

A learner is a perceptron with one hidden layer. Learners are stacked along a first axis and trained by Adam
(arXiv 1412.6980), all rows in every step, on the sum of their losses. That trains each as if it were alone: they share
no parameter, and Adam treats every number for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .slices import Floats, Integers, Offer

CLASSES = 10


@dataclass(frozen=True)
class Training:
    """How learners are trained. hidden: units. decay: of all weights, as a part of the gradient."""

    hidden: int = 32
    steps: int = 100
    rate: float = 0.02
    decay: float = 1e-3


class Marks(NamedTuple):
    """What an examination found. error: (rows,) 1 where the digit is mistaken. loss: (rows,) cross-entropy in nats."""

    error: Floats
    loss: Floats


class School:
    """Trains learners on rows of an offer, and examines them on others."""

    def __init__(self, offer: Offer, training: Training, device: str) -> None:
        self.offer, self.training, self.device = offer, training, device
        self._images = torch.from_numpy(offer.images).to(device)
        self._label = torch.from_numpy(offer.label).to(device)

    def marks(self, study: Sequence[Integers], exam: Sequence[Integers], seeds: Sequence[int]) -> list[Marks]:
        """How well a learner that was trained on some rows does on others, for each pair of row arrays.

        seeds: of the first weights.
        """
        parameters = self._train(study, seeds)
        index, _ = self._padded(exam)
        with torch.no_grad():
            logits = _logits(parameters, self._images[index])
            loss = functional.cross_entropy(logits.mT, self._label[index], reduction="none").cpu().numpy()
            error = (logits.argmax(dim=-1) != self._label[index]).float().cpu().numpy()
        return [Marks(error[at, : len(rows)], loss[at, : len(rows)]) for at, rows in enumerate(exam)]

    def _train(self, study: Sequence[Integers], seeds: Sequence[int]) -> list[Tensor]:
        index, weight = self._padded(study)
        images, label = self._images[index], self._label[index]
        weight = weight / weight.sum(dim=1, keepdim=True)
        parameters, training = self._first_weights(seeds), self.training
        adam = torch.optim.Adam(parameters, training.rate, weight_decay=training.decay)
        for _ in range(training.steps):
            adam.zero_grad()
            loss = functional.cross_entropy(_logits(parameters, images).mT, label, reduction="none")
            (loss * weight).sum().backward()
            adam.step()
        return parameters

    def _padded(self, rows: Sequence[Integers]) -> tuple[Tensor, Tensor]:
        """(learners, longest) rows, the first one where there is none, and 1 where there is one, 0 elsewhere."""
        longest = max(map(len, rows))
        index, there = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.float32)
        for at, some in enumerate(rows):
            index[at, : len(some)], there[at, : len(some)] = some, 1
        return torch.from_numpy(index).to(self.device), torch.from_numpy(there).to(self.device)

    def _first_weights(self, seeds: Sequence[int]) -> list[Tensor]:
        """Two layers of weights (learners, inputs, outputs) and biases (learners, 1, outputs)."""
        pixels, hidden = self.offer.images.shape[1], self.training.hidden
        made = list[tuple[Tensor, ...]]()
        for seed in seeds:
            random = torch.Generator().manual_seed(seed)
            first = torch.randn(pixels, hidden, generator=random) * (2 / pixels) ** 0.5
            second = torch.randn(hidden, CLASSES, generator=random) * (1 / hidden) ** 0.5
            made.append((first, torch.zeros(1, hidden), second, torch.zeros(1, CLASSES)))
        return [torch.stack(layer).to(self.device).requires_grad_() for layer in zip(*made, strict=True)]


def _logits(parameters: Sequence[Tensor], images: Tensor) -> Tensor:
    """(learners, rows, classes)."""
    first, first_bias, second, second_bias = parameters
    return torch.baddbmm(second_bias, torch.relu(torch.baddbmm(first_bias, images, first)), second)
