"""Workers as processes of their own, which meet over torch.distributed and end with the one that started them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

PATIENCE = 5.0
"""Seconds in which a worker that is done or told to end does so."""


@contextmanager
def ranks(number: int, limit: float, task: Callable[..., object], *given: object) -> Iterator[None]:
    """Ranks 1 … number − 1 run `task(rank, *given)`; the caller, inside the block, is rank 0.

    limit: seconds after which a wait for another rank raises. Raises `RuntimeError` naming a worker that has failed.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store").as_uri()
        children = [
            context.Process(target=_child, args=(rank, number, limit, store, task, given), daemon=True)
            for rank in range(1, number)
        ]
        try:
            for child in children:
                child.start()
            try:
                _join(0, number, limit, store)
                yield
            except RuntimeError as error:
                raise _explained(error, children) from error
            for child in children:
                child.join(PATIENCE)
        finally:
            _end(children)
            if dist.is_initialized():
                dist.destroy_process_group()


def _join(rank: int, number: int, limit: float, store: str) -> None:
    names = [name for _, name in socket.if_nameindex()]
    loopback = next((name for name in ("lo", "lo0") if name in names), None)
    if loopback is not None:  # all on this machine, whatever its name resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=number, timeout=timedelta(seconds=limit))


def _child(
    rank: int, number: int, limit: float, store: str, task: Callable[..., object], given: tuple[object, ...]
) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent, and it will tell

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)  # whatever this process is waiting for will not come

    threading.Thread(target=follow, daemon=True).start()
    code = 1
    try:
        _join(rank, number, limit, store)
        task(rank, *given)
        dist.destroy_process_group()
        code = 0
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: threads of the process group that outlive the interpreter may abort


def _explained(error: RuntimeError, children: Sequence[multiprocessing.process.BaseProcess]) -> RuntimeError:
    for rank, child in enumerate(children, 1):
        child.join(PATIENCE / 5)
        if child.exitcode:
            return RuntimeError(f"worker {rank} ended with code {child.exitcode}; what it said is above, if anything")
    return error


def _end(children: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for child in children:
        if child.is_alive():
            child.terminate()
    for child in children:
        if child.pid is not None:
            child.join(PATIENCE)
        if child.is_alive():
            child.kill()
