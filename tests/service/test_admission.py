"""What is taken on, and what is refused at once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from equipoise.server.admission import LEARNING, Admission
from equipoise.server.protocol.failures import Refused


def learnt(seconds: float, threads: int = 2, patience: float = 0.02, most: int = 100) -> Admission:
    """Knows that a call of 1000 bytes takes so many seconds."""
    admission = Admission(threads, patience, most)
    with admission.taking("Solve", 1000) as work:
        work.seconds = seconds
    return admission


def test_what_is_not_known_is_taken_on() -> None:
    assert Admission(1, 0.0).expected("Solve", 1000) == 0
    with Admission(1, 0.0).taking("Solve", 1000):
        pass


def test_requests_are_taken_on_until_the_wait_exceeds_patience_and_half_their_own_time() -> None:
    admission = learnt(0.1)
    with ExitStack() as taken:
        for _ in range(2):  # 0.2 s of work over two threads is a wait of 0.1 s, longer than half of 0.1 s
            taken.enter_context(admission.taking("Solve", 1000))
        with pytest.raises(Refused) as caught, admission.taking("Solve", 1000):
            pass
    assert caught.value.reason == "OVERLOADED"
    assert caught.value.retry_after == pytest.approx(0.1)


def test_what_is_done_makes_room() -> None:
    admission = learnt(0.1)
    with ExitStack() as taken:
        for _ in range(2):
            taken.enter_context(admission.taking("Solve", 1000))
    assert (admission.taken, admission.wait) == (0, 0)
    with admission.taking("Solve", 1000):
        assert admission.wait == pytest.approx(0.05)


def test_small_requests_may_wait_as_long_as_patience_says() -> None:
    admission = learnt(0.001, threads=1, patience=0.0205, most=1000)
    with ExitStack() as taken:
        for _ in range(21):
            taken.enter_context(admission.taking("Solve", 1000))
        with pytest.raises(Refused), admission.taking("Solve", 1000):
            pass


def test_while_much_is_refused_a_thread_is_left_to_refuse_it() -> None:
    now = 0.0
    admission = Admission(2, 0.0, clock=lambda: now)
    with admission.taking("Solve", 1000) as work:
        work.seconds = 0.1

    def room() -> int:
        """How many requests are taken on at once."""
        with ExitStack() as taken:
            for number in range(10):
                try:
                    taken.enter_context(admission.taking("Solve", 1000))
                except Refused:
                    return number
        return 10

    assert room() == 2, "one for each thread"
    for _ in range(500):  # in half a second, which costs the event loop a fifth of a core
        now += 0.001
        assert room() in (1, 2)
    assert admission.refusing == pytest.approx(1000, rel=0.2)
    assert room() == 1
    now += 1.0
    assert admission.refusing < 50
    assert room() == 2, "nobody has been refused of late"


def test_no_more_are_taken_on_than_the_most() -> None:
    admission = Admission(2, 1.0, most=2)
    with (
        admission.taking("Solve", 1),
        admission.taking("Solve", 1),
        pytest.raises(Refused),
        admission.taking("Solve", 1),
    ):
        pass


def test_a_request_that_fails_is_done_too() -> None:
    admission = learnt(0.1)
    with pytest.raises(ValueError, match="bad"), admission.taking("Solve", 1000):
        raise ValueError("bad")
    assert (admission.taken, admission.wait) == (0, 0)


def test_the_expected_time_follows_what_is_seen() -> None:
    admission = learnt(0.1)
    with admission.taking("Solve", 1000) as work:
        work.seconds = 0.2
    assert admission.expected("Solve", 1000) == pytest.approx(0.1 + LEARNING * 0.1)
    assert admission.expected("Solve", 5000) == 0
    assert admission.expected("Check", 1000) == 0
