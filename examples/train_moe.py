"""What does balance cost and bring a mixture-of-experts language model? Train one by each method and compare.

    python examples/train_moe.py [--server ADDRESS] [--device cuda --width 512 --layers 8 --tokens 32768 --steps 5000 …]
    python examples/train_moe.py --capacity-factor inf    # what evenness itself does to the loss, with nothing dropped

A small transformer learns the bytes of Python's standard library. Its experts are balanced by nothing, an auxiliary
loss, a loss-free bias, BIP prices, quantile prices, our router that meets capacities on the device (capped), or the
exact optimal plan of every batch and layer, asked of the client: in this process, or at a service with `--server`.
Equal seeds start from equal weights and see equal text.

Capacities: in training an expert has ⌈capacity-factor · tokens · k / experts⌉ places, and the least scores of what
comes on top are dropped; capped and exact make do with a factor of 1. Validation is the same for all: text of other
files, every token to its k best experts by scores − the last prices, nothing dropped.

AvgMaxVio, SupMaxVio: mean and largest max load / mean load − 1 over all layers and steps from the first, of what the
tokens chose, before anything is dropped. ms/step: forward, plan, backward and update; the median step of a run.
Intervals are of 95 % over the seeds (Student's t).

The auxiliary loss and the bias have the coefficient and the step that levelled best here, of 0.01, 0.03, 0.1 and of
0.003, 0.01, 0.03: the 0.001 of the bias's authors is for runs of many thousand steps. BIP, capped and the
exact plan look at the whole batch before they route it, the others at earlier batches only.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from loop import each, parser
from moe.report import draw, outcomes, tell
from moe.training import METHODS, Task, train
from rich.console import Console
from rich.progress import track


def flags() -> ArgumentParser:
    """The flags of this loop, besides those that every loop has."""
    asked = parser("Train a mixture-of-experts language model by each way to balance its experts.", "train_moe.png")
    asked.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    asked.add_argument("--experts", nargs="+", type=int, default=[16, 64], help="in each layer; a comparison for each")
    asked.add_argument("--k", type=int, default=2, help="experts of a token")
    asked.add_argument("--width", type=int, default=64, help="of the model")
    asked.add_argument("--hidden", type=int, default=64, help="width inside an expert")
    asked.add_argument("--layers", type=int, default=2)
    asked.add_argument("--heads", type=int, default=4)
    asked.add_argument("--context", type=int, default=128, help="bytes that the model sees at once")
    asked.add_argument("--tokens", type=int, default=1024, help="in one step; a multiple of the context")
    asked.add_argument("--steps", type=int, default=100)
    asked.add_argument("--rate", type=float, default=3e-3, help="learning rate at its peak")
    asked.add_argument("--capacity-factor", type=float, default=1.25, help="of all but capped and exact; inf: no limit")
    asked.add_argument("--coefficient", type=float, default=0.1, help="of the auxiliary loss")
    asked.add_argument("--bias-step", type=float, default=0.01, help="of the loss-free bias")
    asked.add_argument("--judge-every", type=int, default=20, help="steps between two judgements")
    asked.add_argument("--judge-batches", type=int, default=8, help="of --tokens each, in a judgement")
    asked.add_argument("--workers", type=int, help="runs at a time; if absent one per core, on a GPU one")
    asked.add_argument("--threads", type=int, default=1, help="of torch in a run")
    return asked


def main() -> None:
    """Run, compare, draw."""
    asked = flags()
    options = asked.parse_args()
    if options.tokens % options.context:
        asked.error(f"--tokens: must be a multiple of --context, {options.context}, got {options.tokens}")
    tasks = [
        Task(method, experts, seed)
        for seed in range(options.seeds)
        for experts in options.experts
        for method in options.methods
    ]
    console = Console() if sys.stdout.isatty() else Console(width=120)
    runs = list(track(each(train, tasks, options), "training", len(tasks), console=Console(stderr=True)))
    found = outcomes(runs, options.methods)
    tell(found, console)
    draw(found, options.out)


if __name__ == "__main__":
    main()
