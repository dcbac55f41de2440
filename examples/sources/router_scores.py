"""Which expert takes which token? The router's scores of a small mixture-of-experts model, trained here.

A byte-level transformer of one block (causal attention, then 16 experts of which each token takes 2, softmax
gate: GShard, arXiv 2006.16668) learns the Python standard library's source for about a minute on one core.
It has no load-balancing loss: the imbalance of its scores was learnt, not drawn from a distribution.

The file holds the softmax probabilities of one held-out batch, 1,024 tokens x 16 experts, float32, and no
text. Every 20th source file is held out; tests and site-packages are not read. Same seed, Python, torch and
processor: same bytes. Elsewhere the text and the rounding differ, and so do the scores.
"""

import argparse
import os
import sysconfig
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

DATA = Path(__file__).resolve().parents[2] / "specs" / "examples" / "data"
SEED = 16
EXPERTS, EXPERTS_PER_TOKEN = 16, 2
BYTES, WIDTH, EXPERT_WIDTH, HEADS = 256, 64, 128, 4
CONTEXT, BATCH, HELD_OUT_BATCH = 128, 16, 8  # bytes; windows; windows: 8 x 128 = 1,024 tokens
HELD_OUT_EVERY = 20  # files
STEPS, LEARNING_RATE = 2_000, 2e-3
SKIPPED_FOLDERS = {"site-packages", "test", "tests", "idle_test", "__pycache__"}


class MixtureOfExperts(nn.Module):
    """Each token goes to its best experts, weighted by their softmax probabilities, made to sum to one."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, EXPERT_WIDTH), nn.GELU(), nn.Linear(EXPERT_WIDTH, WIDTH))
            for _ in range(EXPERTS)
        )

    def scores(self, tokens: Tensor) -> Tensor:
        """Probabilities, tokens x experts."""
        return self.router(tokens).softmax(dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        weights, chosen = self.scores(tokens).topk(EXPERTS_PER_TOKEN)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            taken, place = torch.where(chosen == index)
            mixed = mixed.index_add(0, taken, expert(tokens[taken]) * weights[taken, place].unsqueeze(1))
        return mixed


class LanguageModel(nn.Module):
    """Predicts the next byte: embedding, causal attention, mixture of experts, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, WIDTH)
        self.position = nn.Parameter(torch.zeros(CONTEXT, WIDTH))
        self.attention_norm, self.expert_norm, self.head_norm = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.attention_in, self.attention_out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.experts = MixtureOfExperts()
        self.head = nn.Linear(WIDTH, BYTES)

    def attended(self, text: Tensor) -> Tensor:
        """What reaches the experts' layer: windows x context x width."""
        hidden = self.embedding(text) + self.position
        heads = self.attention_in(self.attention_norm(hidden)).unflatten(-1, (3 * HEADS, -1)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(*heads.chunk(3, dim=1), is_causal=True)
        return hidden + self.attention_out(mixed.transpose(1, 2).flatten(2))

    def forward(self, text: Tensor) -> Tensor:
        hidden = self.attended(text)
        hidden = hidden + self.experts(self.expert_norm(hidden).flatten(0, 1)).view_as(hidden)
        return self.head(self.head_norm(hidden))

    def router_scores(self, text: Tensor) -> Tensor:
        """Probabilities at the experts' layer, tokens x experts."""
        return self.experts.scores(self.expert_norm(self.attended(text)).flatten(0, 1))


def read_source(root: Path) -> tuple[Tensor, Tensor]:
    """The library's source as bytes: what is trained on, and what is held out."""
    paths = sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix())
    texts = [path.read_bytes() for path in paths if not SKIPPED_FOLDERS & set(path.relative_to(root).parts)]
    held_out = texts[::HELD_OUT_EVERY]
    trained = [text for index, text in enumerate(texts) if index % HELD_OUT_EVERY]
    return as_bytes(trained), as_bytes(held_out)


def as_bytes(texts: list[bytes]) -> Tensor:
    """One after the other, a number from 0 to 255 for each byte."""
    return torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8)


def windows(text: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random stretches of text, and the byte that follows each of their bytes."""
    starts = torch.randint(len(text) - CONTEXT, (count, 1), generator=generator)
    stretch = text[starts + torch.arange(CONTEXT + 1)].long()
    return stretch[:, :-1], stretch[:, 1:]


def next_byte_loss(model: LanguageModel, text: Tensor, following: Tensor) -> Tensor:
    """Cross-entropy, in nats per byte."""
    return functional.cross_entropy(model(text).flatten(0, 1), following.flatten())


def train(model: LanguageModel, text: Tensor, steps: int, generator: torch.Generator) -> None:
    """AdamW with a linear decay to nothing; no term for balance."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    for step in range(steps):
        loss = next_byte_loss(model, *windows(text, BATCH, generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
        if step % 500 == 0:
            print(f"step {step:>5}: {loss.item():.2f} nats per byte")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DATA / "router_scores.npy")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    trained, held_out = read_source(Path(sysconfig.get_paths()["stdlib"]))
    model = LanguageModel()
    train(model, trained, options.steps, generator)

    text, following = windows(held_out, HELD_OUT_BATCH, generator)
    with torch.no_grad():
        scores = model.router_scores(text)
        print(f"held out: {next_byte_loss(model, text, following).item():.2f} nats per byte")
    load = torch.bincount(scores.topk(EXPERTS_PER_TOKEN).indices.flatten(), minlength=EXPERTS).double()
    violation = (load.max() / load.mean() - 1).item()
    print(f"load of plain top-{EXPERTS_PER_TOKEN}: {load.int().tolist()}, max violation {violation:.2f}")

    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial = options.out.with_suffix(".part")
    with partial.open("wb") as file:
        np.save(file, scores.numpy())
    os.replace(partial, options.out)


if __name__ == "__main__":
    main()
