"""What does balanced admission gain a continuous-batching engine whose data-parallel workers decode in lock-step?

    python examples/serve_decode.py                                       # two minutes at most on two cores
    python examples/serve_decode.py --trace azure --policy FCFS "longest first + swaps" "BF-IO H=0" equipoise
    python examples/serve_decode.py --trace requests.csv --scale 1 --workers 8 --slots 64 --device cuda --width 1024
    python examples/serve_decode.py --server localhost:50551              # decisions over gRPC

Every worker is a process with a small transformer (random weights) and a real cache of keys and values in pages; a
step is one token for each of its requests, by attention over all that is cached, and ends when the last worker is
done (an all-reduce of torch.distributed). Requests are rows of a trace, drawn by seed; prompts arrive with their keys
and values ready, as where prefill has machines of its own. Nobody knows how long a request will stay. Times are real
ones, decisions included: they are on the path of a step. Every policy serves the same requests to the end, on the same
machine at the same time: some steps each in turn.

Lengths are scaled down so that two cores turn the slots over often enough: the shape of the load stays, the unit does
not. Processes beyond the number of cores share them, and then wait for each other for other reasons than load: two
cores tell about two workers, so that is the default.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import equipoise as eq
from equipoise.benchmarks.decode_replay.traces import SAMPLES, TRACES, Trace, read_trace
from equipoise.examples import loop
from equipoise.examples.decode.figures import Results, compared, law, plot, table
from equipoise.examples.decode.model import HEAD, Decoder
from equipoise.examples.decode.policies import NAMES, OURS, overdue, rule
from equipoise.examples.decode.ranks import ranks
from equipoise.examples.decode.replay import Record, Replay, Setting, in_turns
from equipoise.solvers.baselines import decode_rules

SCALES = {"azure": 1 / 4, "mooncake": 1 / 16, "r1": 1 / 16}
"""Of the traces that come along, what makes a replay last some hundreds of steps."""
LARGEST = 10**6


NOTES = """\
± is the 95 % interval over {seeds} seeds; better and worse are ratios whose interval leaves out 1. Steps are \
counted while anybody waits, the first aside; the whole replay and the waits have all. Deciding includes sending the \
plan. Heaviest's processor time: of the worker that had the most work in a step, whatever else the machine did. Load \
spread: 1 − mean / heaviest of the workers' resident tokens. Idle: the mean share of a step in which a worker has \
its tokens and waits for the others. Waits are in steps; {ours} lets nobody be overtaken who has waited {bypass}. \
With so many clients the mean wait hardly depends on the policy; whose wait is long does.
"""


@dataclass(frozen=True)
class Work:
    """What all ranks know before they start. traces: one a seed."""

    setting: Setting
    policies: tuple[str, ...]
    traces: tuple[Trace, ...]
    max_bypass: int


def flags() -> argparse.ArgumentParser:
    """The command line."""
    parser = loop.parser((__doc__ or "").partition("\n")[0], "serve_decode.png")
    parser.set_defaults(seeds=5)
    add = parser.add_argument
    add("--trace", default="mooncake", help=f"{', '.join(TRACES)}, or a CSV with input_tokens and output_tokens")
    add("--scale", type=float, help="factor on all lengths; 1 for a file, and what suits the others")
    add("--rounds", type=float, default=6.0, help="requests per slot")
    add("--policy", nargs="+", choices=NAMES, metavar="NAME", default=["FCFS", "JSQ by tokens", OURS], help="of "
        + ", ".join(NAMES))  # fmt: skip
    add("--workers", type=_whole, default=2, help="processes that decode")
    add("--slots", type=_whole, default=16, help="requests that each decodes at once")
    add("--queue", type=_whole, help="clients beyond the slots; 4 per worker if not said")
    add("--width", type=_whole, default=128, help=f"of the model, a multiple of {HEAD}")
    add("--layers", type=_whole, default=8, help="of the model")
    add("--threads", type=_whole, help="of each worker's torch; its share of the cores if not said")
    add("--max-bypass", type=_whole, help="steps after which nobody is overtaken; from the trace if not said")
    add("--limit", type=_whole, default=60, help="seconds for any wait: a decision, another worker")
    return parser


def _whole(text: str) -> int:
    value = int(text)
    if not 1 <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be from 1 to {LARGEST}, got {value}")
    return value


def planned(options: argparse.Namespace) -> Work:
    """The work that the flags ask for. Raises `ValueError` where they cannot be met."""
    if options.width % HEAD:
        raise ValueError(f"--width: must be a multiple of {HEAD}, got {options.width}")
    if options.seeds < 1:
        raise ValueError(f"--seeds: must be at least 1, got {options.seeds}")
    if options.device not in ("cpu", "cuda"):
        raise ValueError(f"--device: must be cpu or cuda, got {options.device}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: torch finds no CUDA device here")
    if not 0 < options.rounds <= LARGEST or not 0 < (options.scale or 1) <= LARGEST:
        raise ValueError(f"--rounds, --scale: must be above 0 and at most {LARGEST}")
    places, queue = options.workers * options.slots, options.queue or 4 * options.workers
    scale = options.scale or SCALES.get(options.trace, 1.0)
    number = round(options.rounds * places)
    if number < places + queue:
        raise ValueError(f"--rounds: gives {number} requests, fewer than the {places + queue} clients: at least 2")
    trace = _read(options.trace)
    if max(trace.tokens.max(), trace.output.max()) * scale > LARGEST:
        raise ValueError(f"--trace: lengths go beyond {LARGEST} tokens; a smaller --scale keeps them below")
    traces = tuple(_scaled(trace.drawn(number, seed), scale) for seed in range(options.seeds))
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
    setting = Setting(
        options.workers, options.slots, queue, options.width, options.layers, options.device, threads,
        float(options.limit),
    )  # fmt: skip
    bypass = options.max_bypass or overdue(_scaled(trace, scale), queue, places)
    return Work(setting, tuple(dict.fromkeys(options.policy)), traces, bypass)


def _read(name: str) -> Trace:
    path = SAMPLES / TRACES[name] if name in TRACES else Path(name)
    try:
        return read_trace(path, name)
    except KeyError as missing:
        raise ValueError(f"--trace: {path} has no column {missing}; it takes input_tokens and output_tokens") from None
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"--trace: {path} cannot be read: {error}") from error


def _scaled(trace: Trace, scale: float) -> Trace:
    tokens, output = (np.maximum(np.rint(of * scale), 1).astype(np.int64) for of in (trace.tokens, trace.output))
    return Trace(trace.name, tokens, output)


def replayed(rank: int, work: Work, client: eq.Client | None = None) -> list[list[Record]]:
    """One rank's part in everything: a record a seed and policy. Rank 0 has the client, and decides."""
    torch.set_num_threads(work.setting.threads)
    torch.manual_seed(0)
    model = Decoder(work.setting.width, work.setting.layers).to(work.setting.on(rank)).eval()
    _warm_up(work, rank, model, deciding=client is not None)
    found = []
    for seed, trace in enumerate(work.traces):
        with ExitStack() as stack:
            replays = []
            for policy in work.policies:
                replay = Replay(work.setting, rank, model, trace)
                if client is not None:
                    first = replay.batch.snapshot()
                    decide = rule(policy, client, first, seed, work.max_bypass, work.setting.limit)
                    replay.rule = stack.enter_context(decide)
                replays.append(replay)
            turn = seed % len(replays)  # which goes first
            records = in_turns(replays[turn:] + replays[:turn])
            found.append(records[len(records) - turn :] + records[: len(records) - turn])
    return found


def _warm_up(work: Work, rank: int, model: Decoder, deciding: bool) -> None:
    """A few steps that nobody counts: what is made at first use is made."""
    short = np.full(work.setting.workers * work.setting.slots + work.setting.queue, 3)
    replay = Replay(work.setting, rank, model, Trace("warm-up", short, short))
    replay.rule = decode_rules.RULES["FCFS"](0) if deciding else None
    in_turns([replay])


def main() -> None:
    """Replay, and say what came of it."""
    parser = flags()
    options = parser.parse_args()
    console, started = Console(), time.perf_counter()
    try:
        work = planned(options)
    except ValueError as error:
        parser.error(str(error))
    try:
        with loop.client(options.server) as client, ranks(work.setting.workers, work.setting.limit, replayed, work):
            records = replayed(0, work, client)
    except (eq.EquipoiseError, RuntimeError) as error:
        sys.exit(f"serve_decode.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    results: Results = {policy: [runs[at] for runs in records] for at, policy in enumerate(work.policies)}
    setting, trace = work.setting, work.traces[0]
    title = (
        f"{trace.name}: {len(trace)} requests, mean prompt {trace.tokens.mean():.0f} and output "
        f"{trace.output.mean():.1f} tokens; {setting.workers} workers × {setting.slots} slots, {setting.queue} waiting"
    )
    notes = NOTES.format(seeds=len(records), ours=OURS, bypass=work.max_bypass)
    ratios, words = compared(results)
    console.print(title, table(results), notes, law(results), sep="\n", highlight=False)
    if words:
        console.print(ratios, *words, sep="\n", highlight=False)
    if setting.workers > (os.cpu_count() or 1) and setting.device == "cpu":
        console.print(f"{setting.workers} workers share {os.cpu_count()} cores: times tell little about balance here.")
    loop.save(plot(title, results), options.out)
    console.print(f"{time.perf_counter() - started:.0f} s in all", highlight=False)


if __name__ == "__main__":
    main()
