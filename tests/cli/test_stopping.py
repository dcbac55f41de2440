"""How a solve is watched on a terminal, and how it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

import equipoise as eq
from equipoise.solvers.solve import Solver

from .console import COMMAND, read_until, run, start, strict


@pytest.mark.usefixtures("folder")
def test_ctrl_c_stops_a_long_solve_with_the_best_plan_so_far() -> None:
    arguments = ["solve", "hard.json", "good.yaml", "--method", "exact", "--json", "--time-limit", "60", "-o", "plans"]
    process, seen = start(arguments)
    shown = read_until(seen, b"incumbent")
    assert b"gap" in read_until(seen, b"bound") + shown
    process.send_signal(signal.SIGINT)
    rest = read_until(seen, None)
    output, _ = process.communicate()
    stopped, left = map(strict, output.decode().splitlines())
    assert process.returncode == 130
    assert b"stopping with the best plan so far" in rest
    assert stopped["certificate"]["stopped"] == "interrupted"
    assert stopped["certificate"]["status"] == "feasible"
    assert 0 < stopped["certificate"]["gap"] < 1e-3
    assert stopped["check"]["ok"]
    assert left["error"] == {"type": "Interrupted", "message": "not solved: interrupted before its turn"}
    assert run("check", "plans/hard.plan.json").exit_code == 0
    os.close(seen)


@pytest.mark.usefixtures("folder")
def test_a_second_ctrl_c_quits_at_once() -> None:
    process, seen = start(["solve", "hard.json", "--method", "exact", "--time-limit", "60"])
    read_until(seen, b"incumbent")
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    pressed = time.perf_counter()
    output, _ = process.communicate()
    assert process.returncode == 130
    assert time.perf_counter() - pressed < 1
    assert output == b""
    os.close(seen)


@pytest.mark.usefixtures("folder")
def test_an_interrupt_before_any_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(solver: Solver, spec: Any, watch: Callable[[eq.Progress], bool]) -> NoReturn:
        os.kill(os.getpid(), signal.SIGINT)
        assert watch(eq.Progress(0.0)) is False
        raise eq.SolveTimeout("no feasible plan was found")

    monkeypatch.setattr(Solver, "solve", interrupted)
    before = signal.getsignal(signal.SIGINT)
    result = run("solve", "good.yaml", "infeasible.yaml")
    assert result.exit_code == 130
    assert "error: good.yaml: interrupted before any plan was found" in result.stderr
    assert "error: infeasible.yaml: not solved: interrupted before its turn" in result.stderr
    assert signal.getsignal(signal.SIGINT) is before


def test_a_backend_that_was_given_up_does_not_change_the_exit_code() -> None:
    """The interpreter shuts down under a thread that never comes back."""
    code = """
import sys, threading, time
from equipoise.clients.cli import app
from equipoise.solvers import control
thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
control._running.add(thread)
thread.start()
sys.argv = ["equipoise", "example", "no_such_kind"]
app.main()
"""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no kind of task" in done.stderr
    assert time.perf_counter() - started < 30


@pytest.mark.usefixtures("folder")
def test_a_short_solve_shows_no_progress() -> None:
    process, seen = start(["solve", "good.yaml"])
    shown = read_until(seen, None)
    assert process.wait() == 0
    assert shown == b""
    process.communicate()
    os.close(seen)


@pytest.mark.usefixtures("folder")
def test_no_progress_is_drawn_where_nobody_looks() -> None:
    arguments = [*COMMAND, "solve", "hard.json", "--method", "exact", "--time-limit", "1.5"]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "FORCE_COLOR": "1"})
    assert done.returncode == 0
    assert done.stderr == ""
    assert "by the time limit" in done.stdout


@pytest.mark.usefixtures("folder")
def test_a_broken_pipe_ends_quietly() -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen([*COMMAND, "solve", "good.yaml"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    os.close(reading)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (141, b"")
