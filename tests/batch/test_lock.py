"""One batch at a time writes to an output."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import equipoise as eq
from equipoise.clients.batch.lock import Lock
from equipoise.clients.batch.outputs import Output

from .results import OPTIONS, run, task

HOLD = """
import sys
from pathlib import Path
from equipoise.clients.batch.outputs import Output
output = Output(Path(sys.argv[1]), {"method": "auto", "gap": None, "seed": 0}, resume=True)
print("holds", flush=True)
sys.stdin.read()
"""


def test_a_second_batch_is_refused_and_told_who_writes_until_the_first_is_gone(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "holds\n"
        host = re.escape(os.uname().nodename)
        for resume in (False, True):
            with pytest.raises(eq.SpecError, match=rf"another batch \(process {first.pid} on '{host}'\) writes to it"):
                Output(out, OPTIONS, resume=resume)
        first.send_signal(signal.SIGKILL)
    with Output(out, OPTIONS, resume=True) as output:
        run(output, [task(1)])


def test_the_lock_says_whose_the_output_is_and_stays(tmp_path: Path) -> None:
    with Output(tmp_path / "out.jsonl", OPTIONS) as output:
        said = json.loads((tmp_path / "out.jsonl.batch.json").read_text())
        output.close(finished=True)
    assert said["pid"] == os.getpid() and said["options"] == OPTIONS
    assert set(said) == {"version", "pid", "host", "options"}
    assert json.loads((tmp_path / "out.jsonl.batch.json").read_text()) == said


def test_whoever_opened_the_file_before_it_was_replaced_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "lock", tmp_path / "out"
    first = Lock(path, out)
    real, opened = os.open, list[int]()

    def late(*how: object) -> int:
        descriptor = real(*how)  # pyright: ignore[reportCallIssue, reportArgumentType]
        if not opened:
            opened.append(descriptor)
            with monkeypatch.context() as patched:
                patched.setattr(os, "open", real)
                first.write(OPTIONS)  # the file that was opened is nobody's now
        return descriptor

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(eq.SpecError, match=f"another batch \\(process {os.getpid()}"):
        Lock(path, out)
    monkeypatch.undo()
    first.release()
    Lock(path, out).release()


def test_a_lock_under_which_nothing_was_written_leaves_no_file(tmp_path: Path) -> None:
    Lock(tmp_path / "lock", tmp_path / "out").release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def without(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(eq.SpecError, match=r"cannot be locked \(.*write to a local folder"):
        Output(tmp_path / "out.jsonl", OPTIONS)


def test_a_lock_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.batch.json").mkdir()
    with pytest.raises(eq.SpecError, match=r"out\.jsonl\.batch\.json: cannot be written: Is a directory"):
        Output(tmp_path / "out.jsonl", OPTIONS)
