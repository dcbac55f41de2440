"""How many tasks go into a chunk: enough that handing over costs little, and no more than keeps everybody at work."""

from __future__ import annotations

import pytest

from equipoise.clients.batch.pace import LEAST, LOOK, MOST, PER_WORKER, Pace


def settled(workers: int, seconds: float, busy: int) -> int:
    """Tasks in a chunk after a while, where a task takes so many seconds of the workers that are busy."""
    now = 0.0
    pace = Pace(workers, lambda: now)
    for _ in range(20):
        tasks = max(1, round(1.5 * LOOK * busy / seconds))
        now += tasks * seconds / busy
        pace.done(tasks, busy)
    return pace.tasks


@pytest.mark.parametrize(
    ("workers", "seconds", "tasks"),
    [
        (2, 0.001, round(LEAST / 0.001)),
        (2, 0.00001, MOST),
        (2, 10.0, 1),
        (1000, 0.1, round(PER_WORKER * 1000 / 0.1)),
    ],
)
def test_a_chunk_is_some_seconds_of_work(workers: int, seconds: float, tasks: int) -> None:
    assert settled(workers, seconds, workers) == tasks


def test_workers_that_wait_for_their_driver_make_no_task_look_long() -> None:
    assert settled(1000, 0.01, busy=5) == settled(1000, 0.01, busy=1000)


def test_the_first_chunk_is_one_task_and_later_ones_grow_step_by_step() -> None:
    now = 0.0
    pace = Pace(1, lambda: now)
    assert pace.tasks == 1
    sizes = []
    for _ in range(3):
        now += 2 * LOOK
        pace.done(10_000, 1)
        sizes.append(pace.tasks)
    assert sizes == [4, 16, 64]


def test_tasks_that_failed_before_any_worker_had_them_do_no_harm() -> None:
    now = 0.0
    pace = Pace(2, lambda: now)
    now += 2 * LOOK
    pace.done(0, 0)
    pace.done(3, 0)
    assert pace.tasks >= 1
