"""Where workers run: processes of this machine, or actors of a Ray cluster. One flag tells which."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from ...specs.errors import UnsupportedError, shown
from ..protocol.wire import Limits
from .pool import Workers
from .worker import WorkerSettings

Engine = Literal["local", "ray"]
LEAST_MEMORY = 512 * 2**20
"""Bytes that a worker needs to be of use: it takes half of them before it solves anything."""
MOST_WORKERS = 10_000


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_of_a_worker(workers: int) -> int:
    """Bytes that one of so many workers may take: its share of half of what the machine has, or the control group of
    this process where that is less."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        group = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        group = ""
    most = min(there, int(group)) if group.isdecimal() else there
    return max(most // 2 // workers, LEAST_MEMORY)


def checked(engine: str, workers: int | None, memory: int | None, address: str | None) -> None:
    """Raises `UnsupportedError` for what no engine can be opened with, `ray` without Ray included."""
    if engine not in get_args(Engine):
        raise UnsupportedError(f"engine: must be 'local' or 'ray', got {shown(engine)}")
    if engine == "local" and address is not None:
        raise UnsupportedError(f"address: {shown(address)} is one of a cluster; it goes with engine 'ray'")
    if workers is not None and not (_is_whole(workers) and 1 <= workers <= MOST_WORKERS):
        raise UnsupportedError(f"workers: must be a whole number from 1 to {MOST_WORKERS:,}, got {shown(workers)}")
    if memory is not None and not _is_whole(memory):
        raise UnsupportedError(f"worker memory: must be a whole number of bytes, got {shown(memory)}")
    if memory is not None and memory < LEAST_MEMORY:
        least = LEAST_MEMORY // 2**20
        raise UnsupportedError(f"worker memory: a worker needs at least {least} MiB, got {memory:,} bytes")
    if engine == "ray":
        from .ray_cluster import require_ray

        require_ray()


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def open_workers(
    engine: Engine,
    count: int | None = None,
    *,
    memory: int | None = None,
    address: str | None = None,
    limits: Limits | None = None,
    on_lost: Callable[[str], None] | None = None,
    **more: Any,
) -> Workers:
    """Workers, not started yet.

    count: as many as cores of this machine or of the cluster, if absent. memory: bytes that each may take; its share
    of half of its machine's, if absent. address: of a cluster; one on this machine is started, if absent. more: as
    `Workers` takes it. Raises `UnsupportedError`, and `ServiceError` where a cluster cannot be reached.
    """
    checked(engine, count, memory, address)
    if engine == "ray":
        from .ray_cluster import Cluster

        cluster = Cluster(address, WorkerSettings(memory, limits or Limits()), count)
        return Workers(
            cluster.count, on_lost=on_lost, start=cluster.start, close=cluster.close, all_at_once=False, **more
        )
    count = count or cores()
    return Workers(count, memory or memory_of_a_worker(count), limits=limits, on_lost=on_lost, **more)
