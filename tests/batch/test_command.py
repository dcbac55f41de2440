"""`equipoise batch` as people run it: whatever its specs do and however it is stopped, every spec has one outcome."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise as eq

from .test_chunks import odd

SECONDS = 120.0
"""What any wait here may take; only a failure takes that long."""
COMMAND = (sys.executable, "-P", "-m", "equipoise", "batch")
WITH_ODD_WORKERS = """
import sys
from equipoise.server.workers import process
process.COMMAND = tuple({command!r})
from equipoise.clients.cli.app import main
sys.argv[0] = "equipoise"
main()
"""


def batch(*arguments: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS, **how)


def batch_with_odd_workers(*arguments: str | Path, reading: float = 60.0) -> subprocess.CompletedProcess[str]:
    script = WITH_ODD_WORKERS.format(command=odd(reading))
    command = [sys.executable, "-P", "-c", script, "batch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rollouts(number: int, prompts: int = 12) -> dict[str, Any]:
    """A small task; every one another."""
    random = np.random.default_rng(number)
    trials = random.integers(4, 16, prompts)
    successes = [int(random.integers(0, most + 1)) for most in trials]
    return {
        "kind": "rollout_budgets",
        "name": f"task {number}",
        "prompts": {"successes": successes, "trials": trials.tolist()},
        "total": 8 * prompts,
    }


def decode(number: int) -> dict[str, Any]:
    """A task that takes a search of some milliseconds."""
    random = np.random.default_rng(number)
    table = {"tokens": random.integers(100, 4000, 6).tolist(), "remaining": random.integers(1, 500, 6).tolist()}
    return {
        "kind": "decode_allocation",
        "name": f"task {number}",
        "workers": {"slots": [3, 3]},
        "waiting": table,
        "horizon": [0, 16],
    }


def write(path: Path, documents: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def outcomes(out: Path) -> dict[tuple[str, int | None], Any]:
    """What stands in the results, in any order, without what no two runs have in common."""
    found = dict[tuple[str, int | None], Any]()
    for result in lines(out):
        del result["certificate"]["seconds"]
        key = result["file"], result.get("line")
        assert key not in found, f"{key} is there twice"
        found[key] = result
    return found


def test_every_kind_of_bad_spec_among_two_hundred_fails_alone(tmp_path: Path) -> None:
    documents = [rollouts(number) for number in range(190)]
    text = [json.dumps(document) for document in documents]
    bad = {
        20: ('{"kind": "rollout_budgets", "total": ', "SpecError"),
        40: ('{"kind": "rolout_budgets", "name": "misspelt"}', "SpecError"),
        60: (json.dumps({**rollouts(1), "total": 10**6, "name": "infeasible"}), "InfeasibleError"),
        80: (json.dumps({**rollouts(2), "name": "dies"}), "WORKER_LOST"),
        100: (json.dumps({**rollouts(3), "name": "hoards"}), "WORKER_OUT_OF_MEMORY"),
        120: (json.dumps({**rollouts(4), "name": "hangs"}), "SolveTimeout"),
        140: (json.dumps({**rollouts(5), "name": "breaks"}), "ERROR"),
        160: (json.dumps({**rollouts(6), "prompts": {"file": "nowhere.csv"}, "name": "fileless"}), "SpecError"),
    }
    for place, (line, _) in bad.items():
        text[place - 1] = line
    (tmp_path / "all.jsonl").write_text("\n".join(text) + "\n")
    (tmp_path / "broken.yaml").write_text("kind: [rollout_budgets\n")
    (tmp_path / "latin.yaml").write_bytes("kind: rollout_budgets # é".encode("latin-1"))
    (tmp_path / "fine.yaml").write_text(json.dumps(rollouts(200)))
    out = tmp_path / "out.jsonl"
    ran = batch_with_odd_workers(tmp_path, "-o", out, "--workers", "2", "--time-limit", "2", "--json", reading=3.0)
    failures = {
        (Path(failure["file"]).name, failure.get("line")): failure
        for failure in lines(tmp_path / "out.jsonl.failures.jsonl")
    }
    causes = {place: failure.get("cause", failure["type"]) for place, failure in failures.items()}
    assert causes == {
        **{("all.jsonl", place): cause for place, (_, cause) in bad.items()},
        ("broken.yaml", None): "SpecError",
        ("latin.yaml", None): "SpecError",
    }
    assert all(failure["reason"] for failure in failures.values())
    assert failures["all.jsonl", 40]["name"] == "misspelt" and failures["all.jsonl", 80]["name"] == "dies"
    assert failures["all.jsonl", 60]["fields"] and failures["all.jsonl", 60]["exit_code"] == 3
    assert len(outcomes(out)) == 190 - len(bad) + 1
    assert ran.returncode == 5, ran.stderr  # of a worker that is lost: the worst
    summary = json.loads(ran.stdout)
    assert (summary["solved"], summary["failed"], summary["of_this_run"]) == (183, 10, 193)
    again = batch(tmp_path, "-o", out, "--resume", "--time-limit", "2", "--json")
    assert again.returncode == 5 and json.loads(again.stdout)["of_this_run"] == 0
    assert len(lines(tmp_path / "out.jsonl.failures.jsonl")) == 10


def test_a_batch_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path: Path) -> None:
    source = write(tmp_path / "tasks.jsonl", [rollouts(n) if n % 2 else decode(n) for n in range(1200)])
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert batch(source, "-o", whole).returncode == 0
    random, kills = np.random.default_rng(3), 0
    while kills < 3:
        before = len(lines_of(killed))
        process = subprocess.Popen([*COMMAND, source, "-o", killed, "--resume"], stderr=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        while process.poll() is None and len(lines_of(killed)) == before and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.3))
        process.kill()
        process.wait()
        kills += 1
    done = len(lines_of(killed))
    assert 0 < done < 1200
    ended = batch(source, "-o", killed, "--resume", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["of_this_run"] in (1200 - done, 1200 - done + 1)  # a torn line is cut off
    assert outcomes(killed) == outcomes(whole)


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def test_two_batches_do_not_write_to_one_output(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    reading, writing = os.pipe()
    first = subprocess.Popen([*COMMAND, "-", "-o", str(out)], stdin=reading, stderr=subprocess.DEVNULL)
    os.close(reading)
    with os.fdopen(writing, "w") as specs:
        specs.write(json.dumps(rollouts(1)) + "\n")
        specs.flush()
        end = time.monotonic() + SECONDS
        while not lines_of(out) and time.monotonic() < end:  # which comes though the pipe is open still
            time.sleep(0.01)
        second = batch(write(tmp_path / "more.jsonl", [rollouts(2)]), "-o", out, "--resume")
        assert second.returncode == 2
        assert f"process {first.pid}" in second.stderr and "writes" in second.stderr
    assert first.wait(SECONDS) == 0
    assert len(lines(out)) == 1


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    source = write(tmp_path / "tasks.jsonl", [decode(n) for n in range(2000)])
    out = tmp_path / "out.jsonl"
    command = [*COMMAND, source, "-o", out, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + SECONDS
    while not lines_of(out) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told, aside = process.communicate(timeout=SECONDS)
    assert process.returncode == 130 and b"--resume" in aside
    summary = json.loads(told)
    assert summary["interrupted"] and summary["solved"] == len(lines(out)) < 2000
    assert all(result["certificate"]["stopped"] != "interrupted" for result in lines(out))


def test_an_interrupt_while_nobody_writes_to_standard_input_ends_the_batch(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = [*COMMAND, "-", "-o", out, "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(json.dumps(rollouts(1)) + "\n")
        process.stdin.flush()
        end = time.monotonic() + SECONDS
        while not lines_of(out) and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        told, aside = process.stdout.read(), process.stderr.read()
        assert process.wait(SECONDS) == 130, aside
        assert json.loads(told)["solved"] == 1 and "Fatal" not in aside


def test_results_go_to_a_table_as_well(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    source = write(tmp_path / "tasks.jsonl", [rollouts(n) for n in range(20)] + [{"kind": "nothing"}])
    ran = batch(source, "-o", tmp_path / "out.parquet")
    assert ran.returncode == 2, ran.stderr
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert sorted(row["line"] for row in table) == list(range(1, 21))
    plan = json.loads(table[0]["plan"])
    assert sum(plan["rollouts"]) == 96
    assert [failure["line"] for failure in lines(tmp_path / "out.parquet.failures.jsonl")] == [21]


def test_a_sweep_gives_a_result_for_each_point_and_a_plot(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        json.dumps({**rollouts(1), "name": "sweep", "sweep": {"most": [16, 32, 64], "total": [48, 96, 5000]}})
    )
    out = tmp_path / "out.jsonl"
    ran = batch(tmp_path / "sweep.yaml", "-o", out, "--plot", tmp_path / "plots")
    points = {(result["sweep"]["most"], result["sweep"]["total"]): result for result in lines(out)}
    assert len(points) == 6 and ran.returncode == 3  # 5000 rollouts are more than any of these leave room for
    for (most, total), result in points.items():
        alone = eq.solve(eq.RolloutBudgets(**{**rollouts(1), "name": "sweep", "most": most, "total": total}))
        assert result["plan"]["rollouts"] == alone.rollouts.tolist()
        assert result["certificate"]["objective"] == alone.certificate.objective
    failures = lines(tmp_path / "out.jsonl.failures.jsonl")
    assert {failure["sweep"]["total"] for failure in failures} == {5000} and len(failures) == 3
    assert {path.suffix for path in (tmp_path / "plots").iterdir()} == {".png", ".svg"}
    refused = subprocess.run(
        [sys.executable, "-P", "-m", "equipoise", "solve", str(tmp_path / "sweep.yaml")], capture_output=True, text=True
    )
    assert refused.returncode == 2 and "equipoise batch" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.yaml", "-o", "out.jsonl"], "nowhere.yaml"),
        (["*.nothing", "-o", "out.jsonl"], "*.nothing"),
        (["fine.yaml", "-o", "out.csv"], ".jsonl"),
        (["fine.yaml", "-o", "no/where.jsonl"], "no"),
        (["fine.yaml", "-o", "out.jsonl", "--workers", "0"], "workers"),
        (["fine.yaml", "-o", "out.jsonl", "--worker-memory", "much"], "4GiB"),
        (["fine.yaml", "-o", "out.jsonl", "--worker-memory", "1MB"], "512 MiB"),
        (["fine.yaml", "-o", "out.jsonl", "--address", "auto"], "ray"),
        (["fine.yaml", "-o", "out.jsonl", "--threads", "0"], "threads"),
        (["fine.yaml", "-o", "fine.yaml"], "written by this batch"),
        (["fine.yaml", "-o", "out.jsonl", "--plot", "fine.yaml"], "folder for pictures"),
        (["fine.yaml", "-o", "there.jsonl"], "--resume"),
    ],
)
def test_a_bad_command_is_told_before_anything_is_solved(tmp_path: Path, arguments: list[str], told: str) -> None:
    write(tmp_path / "fine.yaml", [rollouts(1)])
    (tmp_path / "there.jsonl").write_text("{}\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    ran = batch(*arguments, cwd=tmp_path)
    assert ran.returncode == 2, ran.stderr
    assert told in ran.stderr and "Traceback" not in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_nothing_to_do_is_done_at_once(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n\n")
    ran = batch(tmp_path / "none.jsonl", "-o", tmp_path / "out.jsonl", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["solved"] == 0
