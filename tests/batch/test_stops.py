"""Whatever stops a batch, the next one goes on as if nothing had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.clients.batch.journal import outcomes_of
from equipoise.clients.batch.lines import read_result, result_line
from equipoise.clients.batch.outputs import Output

from .results import OPTIONS, failures, results, run, solved, tallied, task

TASKS = [task(number) for number in range(1, 13)]


def finish(out: Path, tasks: list[Any] = TASKS, **how: bool) -> Any:
    """Go on to the end. Returns all that there is then, in an order of its own, and the tally."""
    with Output(out, OPTIONS, resume=True, **how) as output:
        run(output, tasks)
    return sorted(map(repr, results(out))), sorted(map(repr, failures(out))), tallied(output)


@pytest.fixture(params=["out.jsonl", "out.parquet"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where results go."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / request.param


@pytest.fixture
def whole(out: Path, tmp_path: Path) -> Any:
    """What a batch comes to that nothing stops."""
    return finish(tmp_path / f"whole{out.suffix}")


# -- torn lines ------------------------------------------------------------------------------------------------------


def test_lines_before_one_that_is_torn_anywhere_are_read_and_the_torn_one_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = [result_line(solved(one)) for one in TASKS[:2]]
    data = b"".join(lines)
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        whole = next(count for count in (2, 1, 0) if len(b"".join(lines[:count])) <= length)
        read = list(outcomes_of(path, read_result))
        assert [outcome.place for outcome in read] == [one.place for one in TASKS[:whole]]
        assert path.read_bytes() == b"".join(lines[:whole])


@pytest.mark.parametrize("which", ["results", "failures"])
@pytest.mark.parametrize("share", [0, 0.37, 0.8, 0.99])
def test_a_line_that_is_torn_is_written_again(out: Path, whole: Any, which: str, share: float) -> None:
    with Output(out, OPTIONS) as output:
        run(output, TASKS)
        output.close(finished=False)
    lines = out if out.suffix == ".jsonl" else Path(f"{out}.part.jsonl")
    torn = lines if which == "results" else Path(f"{out}.failures.jsonl")
    os.truncate(torn, int(share * torn.stat().st_size))
    assert finish(out) == whole


@pytest.mark.parametrize("garbage", [b"\0" * 5000, b"\xff\n", b'{"file": "a.yaml", "kind"\n', b"\n", b'{"a": 1}\n'])
def test_a_last_line_that_says_nothing_is_cut_off(out: Path, whole: Any, garbage: bytes) -> None:
    with Output(out, OPTIONS) as output:
        run(output, TASKS[:7])
        output.close(finished=False)
    for file in out.parent.glob("*.jsonl"):
        with file.open("ab") as stream:
            stream.write(garbage)
    assert finish(out) == whole


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.failures.jsonl"])
def test_a_line_that_says_nothing_before_others_is_told_and_nothing_is_changed(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.jsonl"
    finish(out)
    lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
    lines[1:1] = [b'{"a": 1}\n']
    (tmp_path / name).write_bytes(b"".join(lines))
    with pytest.raises(eq.SpecError, match=rf"{name}:2: .*take it out, and --resume"):
        Output(out, OPTIONS, resume=True)
    assert (tmp_path / name).read_bytes() == b"".join(lines)
    del lines[1]
    (tmp_path / name).write_bytes(b"".join(lines))
    finish(out)


@pytest.mark.parametrize("size", [0.1, 0.5, 0.9, 0.999])
def test_a_table_that_is_broken_is_told_and_left_alone(tmp_path: Path, size: float) -> None:
    out = tmp_path / "out.parquet"
    finish(out)
    data = out.read_bytes()
    broken = data[: int(size * len(data))]
    out.write_bytes(broken)
    with pytest.raises(eq.SpecError, match=r"out\.parquet: is not a Parquet file"):
        Output(out, OPTIONS, resume=True)
    assert out.read_bytes() == broken


def test_another_table_is_told_and_left_alone(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    out = tmp_path / "out.parquet"
    finish(out)
    parquet.write_table(arrow.table({"file": ["a"], "digest": ["b"]}), out)
    with pytest.raises(eq.SpecError, match=r"out\.parquet: is not a table of results"):
        Output(out, OPTIONS, resume=True)
    rows = parquet.read_table(out)
    assert rows.column_names == ["file", "digest"]


# -- a stop between any two calls of the system ----------------------------------------------------------------------

CALLS = ("write", "replace", "unlink", "ftruncate", "truncate", "open", "fsync", "fdatasync", "close")


class Stops:
    """Copies of a folder as each call of the system finds it, and as the write of half a block leaves it."""

    def __init__(self, folder: Path, into: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._into = folder, into
        self.copies: list[Path] = []
        self._patch = patch
        for name in CALLS:
            patch.setattr(os, name, self._stopped(name, getattr(os, name)))

    def _stopped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self._copy()
            if name == "write" and len(arguments[1]) > 1:
                descriptor, data = arguments
                half = len(data) // 2
                call(descriptor, data[:half])
                self._copy()
                return half
            return call(*arguments, **named)

        return called

    def _copy(self) -> None:
        copy = self._into / str(len(self.copies))
        with pytest.MonkeyPatch.context() as plain:
            for name in CALLS:
                plain.setattr(os, name, REAL[name])
            shutil.copytree(self._folder, copy)
        self.copies.append(copy)


REAL = {name: getattr(os, name) for name in CALLS}


def stops_of(out: Path, into: Path, batch: Callable[[], Any]) -> list[Path]:
    """The output as it is left wherever the batch is stopped."""
    into.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        stops = Stops(out.parent, into, patch)
        batch()
    return [copy / out.name for copy in stops.copies]


def test_a_batch_that_is_stopped_between_any_two_calls_comes_to_the_same(out: Path, whole: Any, tmp_path: Path) -> None:
    stopped = stops_of(out, tmp_path / "stops", lambda: finish(out))
    assert len(stopped) > 30
    assert known(stopped, TASKS) == 12
    for copy in stopped:
        assert finish(copy) == whole, copy
        assert {file.name for file in copy.parent.iterdir()} == {file.name for file in out.parent.iterdir()}


def test_one_that_goes_on_with_changed_specs_and_failures_loses_nothing_wherever_it_is_stopped(
    out: Path, tmp_path: Path
) -> None:
    changed = [task(number, "new" if number % 3 == 0 else "a spec") for number in range(1, 17)]

    def give(output: Output) -> None:
        left = [one for one in changed if not output.has(one)]  # also those that failed before
        for half in (left[:4], left[4:]):
            output.add([solved(one) for one in half])

    def go_on(out: Path) -> None:
        with Output(out, OPTIONS, resume=True, retry_failed=True) as output:
            give(output)

    finish(out)
    start = tmp_path / "start"
    shutil.copytree(out.parent, start)
    stopped = stops_of(out, tmp_path / "stops", lambda: go_on(out))
    expected = sorted(map(repr, results(out)))
    assert len(expected) == 16 and failures(out) == []
    assert len(stopped) > 30
    assert known(stopped, changed) == 16
    for copy in stopped:
        assert {outcome["line"] for outcome in held(copy)} >= {one.place.line for one in TASKS}
        go_on(copy)
        assert sorted(map(repr, results(copy))) == expected and failures(copy) == [], copy


def known(stopped: list[Path], tasks: list[Any]) -> int:
    """How many tasks have an outcome at the last stop; at none are there fewer than at the one before."""
    most = 0
    for copy in stopped:
        with Output(copy, OPTIONS, resume=True) as output:
            count = sum(map(output.has, tasks))
            output.close(finished=False)
        assert count >= most, copy
        most = count
    return most


def held(out: Path) -> list[dict[str, Any]]:
    """Every outcome that is in any file of an output."""
    found = results(out) if out.suffix == ".parquet" and out.exists() else []
    for file in out.parent.glob("*.jsonl"):
        found += [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return found


# -- kill -9 ---------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_killed_again_and_again_comes_to_the_same(out: Path, tmp_path: Path) -> None:
    count, random = 10_000, np.random.default_rng(7)
    tasks = [task(number) for number in range(1, count + 1)]
    whole = finish(tmp_path / f"whole{out.suffix}", tasks)
    program = [sys.executable, "-P", str(Path(__file__).with_name("results.py")), str(out), str(count)]
    killed = 0
    for _ in range(6):
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as batch:
            assert batch.stdout is not None
            assert batch.stdout.readline() == "writes\n"
            time.sleep(random.uniform(0, 0.05))
            batch.send_signal(signal.SIGKILL)
        killed += batch.returncode == -signal.SIGKILL
    assert killed >= 3
    assert finish(out, tasks) == whole
