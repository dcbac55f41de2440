"""The loop that serves: its cache is one, its state loses nobody, its ranks end, its flags are checked, and it runs."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from equipoise.benchmarks.decode_replay.traces import Trace
from equipoise.solvers.baselines import decode_rules

EXAMPLES = Path(__file__).parents[2] / "examples"
loop: Any = importlib.import_module("equipoise.examples.serve_decode")
batch: Any = importlib.import_module("equipoise.examples.decode.batch")
figures: Any = importlib.import_module("equipoise.examples.decode.figures")
model: Any = importlib.import_module("equipoise.examples.decode.model")
replay: Any = importlib.import_module("equipoise.examples.decode.replay")

CPU = torch.device("cpu")
TINY = "--seeds 2 --rounds 3 --slots 3 --layers 1 --width 32 --scale 0.02 --limit 30"


def attended(keys: torch.Tensor, values: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """(heads, HEAD) plain attention in float64 of one query over (heads, tokens, HEAD)."""
    weight = torch.softmax((keys.double() @ query.double()[:, :, None]).squeeze(-1), dim=-1)
    return (weight[:, None] @ values.double()).squeeze(1)


def test_paged_attention_is_attention_over_all_that_a_request_has_cached() -> None:
    torch.manual_seed(0)
    heads, places, random = 2, 4, np.random.default_rng(0)
    cache = model.Cache(1, heads, places, longest=200, blocks=28, device=CPU)
    plain: dict[int, list[torch.Tensor]] = {}
    for step in range(70):
        for place in range(places):
            if place not in plain and random.random() < 0.2:
                cache.place(place, int(tokens := random.integers(1, 100)))
                count = -(-tokens // model.BLOCK)
                prompt = cache._prompt[:, 0, torch.arange(count) % model.PROMPTS].transpose(1, 2).flatten(2, 3)
                plain[place] = list(prompt[:, :, :tokens])
            elif place in plain and random.random() < 0.02:
                cache.release(place)
                del plain[place]
        here = np.array(sorted(plain), dtype=np.int64)
        if not len(here):
            continue
        query, key, value = functional.rms_norm(torch.randn(3, len(here), heads, model.HEAD), (model.HEAD,))
        query = query * model.HEAD**-0.5
        found = cache.attend(0, query, key, value, cache.grow(here))
        for row, place in enumerate(here.tolist()):
            for part, new in enumerate((key, value)):
                plain[place][part] = torch.cat([plain[place][part], new[row][:, None]], dim=1)
            keys, values = plain[place]
            wanted = attended(keys, values, query[row])
            torch.testing.assert_close(found[row].double(), wanted, atol=1e-5, rtol=1e-5, msg=f"step {step}")


def test_a_model_reads_its_cache() -> None:
    """The same newest token after another prompt: another stream, and in the end another next token for somebody."""
    torch.manual_seed(0)
    decoder, next_tokens = model.Decoder(64, 2).eval(), []
    for _ in range(2):
        cache = model.Cache(2, 2, 8, longest=50, blocks=16, device=CPU)
        for place in range(8):
            cache.place(place, 40)
        next_tokens.append(decoder(torch.zeros(8, dtype=torch.int64), cache, cache.grow(np.arange(8))))
    assert next_tokens[0].shape == (8,)
    assert (next_tokens[0] != next_tokens[1]).any()


@pytest.mark.parametrize("name", ["FCFS", "JSQ by tokens", "BF-IO H=0"])
def test_every_request_is_served_once_for_as_long_as_it_is(name: str) -> None:
    random = np.random.default_rng(1)
    tokens, output = random.integers(1, 100, 60), random.integers(1, 12, 60)
    state = batch.Batch(Trace("made up", tokens, output), workers=2, places=4, queue=5, device=CPU)
    rule, left = decode_rules.RULES[name](0), np.full(60, -1)
    state.arrive()
    seen: dict[int, int] = {}
    while not state.done:
        assert state.seated + len(state.waiting) == min(13, 60 - int((left >= 0).sum()))
        if state.undecided:
            state.seat(torch.from_numpy(rule(state.snapshot())))
        resident = state.slots.numpy()
        loads = [sum(tokens[id] + seen.get(id, 0) for id in row[row >= 0].tolist()) for row in resident]
        assert state.loads().tolist() == loads
        ids = resident[resident >= 0].tolist()
        assert len(ids) == len(set(ids)) == state.seated
        seen.update({id: seen.get(id, 0) + 1 for id in ids})
        state.advance()
        for id in set(ids) - set(state.slots.flatten().tolist()):
            left[id] = state.step - 1
        state.arrive()
    assert [seen[id] for id in range(60)] == output.tolist()
    assert (left - state.admitted + 1 == output).all()
    assert (state.admitted >= state.joined).all() and (state.joined >= 0).all()


def test_a_plan_that_cannot_be_carried_out_is_an_error() -> None:
    trace = Trace("made up", np.full(6, 9), np.full(6, 9))
    state = batch.Batch(trace, workers=2, places=2, queue=2, device=CPU)
    state.arrive()
    with pytest.raises(RuntimeError, match="step 0: the plan gives 1 requests to workers without a free slot"):
        state.seat(torch.tensor([0, 0, 0, -1, -1, -1]))
    state = batch.Batch(trace, workers=2, places=2, queue=2, device=CPU)
    state.arrive()
    with pytest.raises(RuntimeError, match="step 0: the plan admits nobody although all workers are idle"):
        state.seat(torch.full((6,), -1))


def record(step: list[float], load: list[list[float]]) -> Any:
    """A record of some steps, in which everybody waits a third of the time."""
    times = np.array(step)
    shares = np.tile(times[:, None] / 3, (1, 2))
    many = np.full(len(step), 4.0)
    return replay.Record(times, times / 10, shares, shares, shares, np.array(load), many, many, np.array([0, 2, 4]))


def test_figures_are_those_of_a_replay_worked_out_by_hand() -> None:
    found = figures.figures(record([9.0, 1.0, 2.0], [[1.0, 1.0], [1.0, 3.0], [4.0, 4.0]]))  # the first does not count
    assert found["rate"] == pytest.approx(8 / 3)
    assert found["replay"] == 12
    assert found["step"] == 1500
    assert found["idle"] == pytest.approx(100 / 3)
    assert found["decide"] == pytest.approx(10)
    assert found["spread"] == pytest.approx(100 / 6)
    assert (found["wait"], found["wait max"]) == (2, 4)


def test_where_ours_does_not_win_is_said() -> None:
    load = [[1.0, 1.0]] * 3
    slow, fast = [[9.0, 2.0, 2.0 + seed / 50] for seed in range(3)], [[9.0, 1.0, 1.0] for _ in range(3)]
    runs = {"FCFS": [record(times, load) for times in fast], "equipoise": [record(times, load) for times in slow]}
    said = figures.compared(runs)[1][0]
    assert said.startswith("Where equipoise does not win against FCFS: worse for tokens/s, whole replay, step p99")
    assert "open for" in said and "mean wait" in said.partition("open for")[2]
    runs = {"FCFS": runs["equipoise"], "equipoise": runs["FCFS"]}
    assert "tokens/s" not in figures.compared(runs)[1][0]
    assert figures.compared({"FCFS": runs["FCFS"]})[1] == []


def test_what_a_token_costs_is_fitted_over_the_steps_that_count() -> None:
    load = [[5.0, 5.0], [1000.0, 3000.0], [4000.0, 6000.0]]
    run = record([9.0, 1.0, 1.0], load)
    run.cpu[1:] = 0.002 + 0.001 * run.load[1:] / 1e3
    said = figures.law({"FCFS": [run], "equipoise": [run]})
    assert "2.00 ms + 1.000 ms per 1,000 resident tokens (r² 1.00); 64 % of it" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--width 33", "--width: must be a multiple of 32, got 33"),
        ("--seeds 0", "--seeds: must be at least 1, got 0"),
        ("--device tpu", "--device: must be cpu or cuda, got tpu"),
        ("--rounds 1", "--rounds: gives 32 requests, fewer than the 40 clients"),
        ("--rounds nan", "--rounds, --scale: must be above 0"),
        ("--scale -1", "--rounds, --scale: must be above 0"),
        ("--trace nowhere.csv", "--trace: nowhere.csv cannot be read"),
        ("--trace BAD", "has no column 'output_tokens'; it takes input_tokens and output_tokens"),
        ("--trace WORDS", "cannot be read: invalid literal"),
        ("--trace HUGE --scale 1", "--trace: lengths"),
    ],
)
def test_flags_that_cannot_be_met_are_refused(flags: str, said: str, tmp_path: Path) -> None:
    files = {
        "BAD": "input_tokens\n3\n",
        "WORDS": "input_tokens,output_tokens\n3,x\n",
        "HUGE": "input_tokens,output_tokens\n99999999999,1\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    given = [str(tmp_path / flag) if flag in files else flag for flag in flags.split()]
    with pytest.raises(ValueError, match=said):
        loop.planned(loop.flags().parse_args(given))


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *command], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "COLUMNS": "200"}, **options,
    )  # fmt: skip


def test_the_loop_serves_a_trace_and_tells_what_came_of_it(tmp_path: Path) -> None:
    plot = tmp_path / "deep" / "plot.svg"
    done = run(str(EXAMPLES / "serve_decode.py"), *TINY.split(), "--out", str(plot))
    assert done.returncode == 0, done.stderr
    for words in ("FCFS", "JSQ by tokens", "equipoise", "2 workers × 3 slots, 8 waiting", "idle at the barrier", "±"):
        assert words in done.stdout
    assert "ms per 1,000 resident tokens" in done.stdout
    assert done.stdout.count("Where equipoise does not win against") == 2
    assert plot.read_text(encoding="utf-8").rstrip().endswith("</svg>")


RANKS = """
import os, sys, time
import torch.distributed as dist
from equipoise.examples.decode.ranks import ranks

def task(rank, how):
    if how == "fails":
        raise ArithmeticError("on purpose")
    print(os.getpid(), flush=True)
    dist.barrier()

if __name__ == "__main__":
    with ranks(2, 60.0, task, sys.argv[1]):
        if sys.argv[1] == "hangs":
            time.sleep(60)
        dist.barrier()
"""


def test_a_worker_that_fails_is_named_and_a_parent_that_is_killed_leaves_none_behind(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RANKS, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script), "hangs"], stdout=subprocess.PIPE, text=True) as parent:
        failed = run(str(script), "fails")
        assert failed.returncode == 1
        assert "ArithmeticError: on purpose" in failed.stderr
        assert "RuntimeError: worker 1 ended with code 1" in failed.stderr
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        until = time.monotonic() + 30
        while parent.stdout.read(1) or alive(child):
            assert time.monotonic() < until, "the worker outlives its parent"
            time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").split()[2] != "Z"
