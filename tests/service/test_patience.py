"""When a call is tried again, and when it is given up."""

from __future__ import annotations

import threading
import time

import pytest
from google.rpc.code_pb2 import Code

import equipoise as eq
from equipoise.clients.remote.patience import FIRST, LARGEST, Patience
from equipoise.clients.remote.watchdog import Watchdog
from equipoise.server.protocol.failures import Refused

LIMIT = 20.0
"""Seconds that anything here may take before its test fails."""


class Clock:
    """Time that passes as it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


GONE = Refused(Code.UNAVAILABLE, "UNAVAILABLE", "nobody is here")


def test_pauses_grow_up_to_a_limit() -> None:
    patience = Patience(1e6, clock=Clock(), draw=lambda low, high: high)
    pauses = [patience.pause(GONE) for _ in range(9)]
    assert pauses == [min(FIRST * 2**number, LARGEST) for number in range(9)]


def test_pauses_are_drawn_at_random() -> None:
    drawn = list[tuple[float, float]]()
    patience = Patience(1e6, clock=Clock(), draw=lambda low, high: drawn.append((low, high)) or low)
    patience.pause(GONE)
    assert drawn == [(FIRST / 2, FIRST)]


def test_patience_ends_where_the_answer_would_come_too_late() -> None:
    clock = Clock()
    patience = Patience(10.0, clock=clock, draw=lambda low, high: high)
    clock.now += 9.95
    with pytest.raises(Refused, match="nobody is here"):
        patience.pause(GONE)
    clock.now += 1.0
    with pytest.raises(eq.SolveTimeout, match="within 10 s"):
        patience.pause(GONE)


def test_patience_with_a_service_that_is_away_ends_before_the_timeout() -> None:
    clock = Clock()
    patience = Patience(600.0, retry_for=2.0, clock=clock, draw=lambda low, high: high)
    for _ in range(4):
        clock.now += patience.pause(GONE)
    with pytest.raises(Refused, match=r"tried 5 times in 1\.5 s"):
        patience.pause(GONE)


def test_an_answer_renews_the_patience() -> None:
    clock = Clock()
    patience = Patience(600.0, retry_for=2.0, clock=clock, draw=lambda low, high: high)
    for _ in range(20):
        clock.now += patience.pause(GONE)
        patience.renew()
    assert patience.left == pytest.approx(600.0 - 20 * FIRST)


@pytest.mark.parametrize(
    "error", [eq.SpecError("bad"), eq.InfeasibleError("none"), Refused(Code.INTERNAL, "INTERNAL", "broken")], ids=str
)
def test_other_errors_are_raised_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        Patience(10.0).pause(error)  # pyright: ignore[reportArgumentType]
    assert raised.value is error


class Call:
    """Notes when it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


def test_the_watchdog_cancels_what_is_late_and_nothing_else() -> None:
    watchdog = Watchdog()
    slow, quick, sudden = Call(), Call(), Call()
    watchdog.watch(slow, LIMIT)
    watchdog.watch(quick, 0.2)
    watchdog.release(quick)
    watchdog.watch(sudden, 0.05)
    assert sudden.cancelled.wait(LIMIT)
    time.sleep(0.2)
    assert not slow.cancelled.is_set() and not quick.cancelled.is_set()
    watchdog.stop()
