"""The Ray cluster that workers run on: reached or started, and let go of again.

Ray is an extra, and imported only here and by what runs on it. There is one of it in a process: all who ask for
workers share what the first one joined, and Ray that somebody else has initialised is used and left as it is.
"""

from __future__ import annotations

import os
import socket
import threading
from types import ModuleType

from google.rpc.code_pb2 import Code

from ...specs.errors import UnsupportedError, shown
from ..protocol.failures import Refused
from .engines import cores
from .ray_slot import Slot
from .ray_worker import RayWorker, see_ray
from .worker import WorkerSettings

REACHED = 5.0
"""Seconds that the head of a cluster has to take a connection."""
CONNECTED = 60.0
"""Seconds that Ray has to join a cluster, or to start one here."""
SHUT_DOWN = 30.0
"""Seconds that Ray has to leave it, or to end it."""
ADDRESS = "RAY_ADDRESS"
"""The variable that names a cluster where nothing else does, as for everything that runs on Ray."""


def require_ray() -> ModuleType:
    """Ray. Raises `UnsupportedError` where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise UnsupportedError(f"engine 'ray' needs Ray ({error}): pip install 'equipoise[ray]'") from None
    return ray


class Cluster:
    """A cluster whose slots become workers, one CPU each.

    address: HOST:PORT of its head, or "auto" for the one that this machine is part of; the variable RAY_ADDRESS, if
    absent; a cluster is started on this machine where neither is there. count: as many workers as it has CPUs, if
    absent. Raises `UnsupportedError` for an impossible address and `Refused`, within a minute or so, where the cluster
    cannot be reached.
    """

    def __init__(self, address: str | None, settings: WorkerSettings, count: int | None = None) -> None:
        ray = require_ray()
        self._settings = settings
        self._joined = _join(ray, _checked(address or os.environ.get(ADDRESS) or None), count)
        try:
            self.count = count or _slots(ray)
            self._actors = ray.remote(Slot).options(num_cpus=1, max_restarts=0, max_task_retries=0)
        except BaseException:
            self.close()
            raise

    async def start(self) -> RayWorker:
        """A new worker on some node, warm. Raises as `RayWorker.start`, and `Refused` where Ray was shut down."""
        see_ray()
        return await RayWorker.start(self._actors.remote(), self._settings)

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here and nobody else uses it."""
        joined, self._joined = self._joined, None
        if joined is not None:
            _leave(joined)


class _Connection:
    """Ray, initialised and shut down by a thread of its own.

    It can be given up where Ray takes for ever; and the processes of a cluster that is started here end with the
    thread that started them, as Ray asks of the system, so that thread must outlive all who use them.
    """

    def __init__(self, ray: ModuleType, address: str | None, count: int | None) -> None:
        self.users = 1
        self._ray, self._address, self._count = ray, address, count
        self._there, self._over, self._gone = threading.Event(), threading.Event(), threading.Event()
        self._error: Exception | None = None
        if address is not None and address != "auto":
            _reach(address)
        threading.Thread(target=self._hold, name="equipoise-ray", daemon=True).start()
        if not self._there.wait(CONNECTED):
            self._over.set()  # should it come after all, it is left at once
            raise _unreachable(address, f"Ray did not answer within {CONNECTED:g} s")
        if self._error is not None:
            raise _unreachable(address, " ".join(str(self._error).split())) from self._error

    def _hold(self) -> None:
        try:
            self._initialise()
        except Exception as error:
            self._error = error
            self._gone.set()
            self._there.set()
            return
        self._there.set()
        self._over.wait()
        self._ray.shutdown()
        _print_losses(True)
        self._gone.set()

    def _initialise(self) -> None:
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        if self._address is None:
            self._ray.init("local", num_cpus=self._count or cores(), include_dashboard=False, **quiet)
        else:
            self._ray.init(self._address, **quiet)
        _print_losses(False)

    def close(self) -> None:
        """Shut Ray down."""
        self._over.set()
        self._gone.wait(SHUT_DOWN)


_ours: _Connection | None = None
"""By which this process is part of a cluster, if it is by us."""
_joining = threading.Lock()


def _join(ray: ModuleType, address: str | None, count: int | None) -> _Connection | None:
    """What is to be left again, if anything. Raises `Refused`."""
    global _ours
    with _joining:
        if not ray.is_initialized():
            _ours = _Connection(ray, address, count)
            return _ours
        _compare(address, ray.get_runtime_context().gcs_address)
        if _ours is not None:
            _ours.users += 1
        return _ours


def _leave(connection: _Connection) -> None:
    global _ours
    with _joining:
        connection.users -= 1
        if not connection.users:
            connection.close()
            _ours = None if _ours is connection else _ours


def _print_losses(wanted: bool) -> None:
    """Whether Ray prints, on the standard output, each actor that is lost: who asks for workers is told anyway."""
    from ray._private import worker

    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = wanted


def _slots(ray: ModuleType) -> int:
    count = int(sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
    if not count:
        raise Refused(
            Code.UNAVAILABLE,
            "NO_WORKERS",
            "the Ray cluster has no CPU yet: say how many workers it is to grow to, as with --workers 16",
        )
    return count


def _checked(address: str | None) -> str | None:
    """An address that Ray can join. Raises `UnsupportedError`."""
    if address is None or address == "auto":
        return address
    if "://" in address:
        raise UnsupportedError(
            f"address: {shown(address)} is one of a client from outside, which workers cannot be asked through; run "
            f"this on a node of the cluster, as a Ray job for instance, with HOST:PORT of its head, or 'auto'"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UnsupportedError(f"address: must be HOST:PORT of a cluster's head, or 'auto', got {shown(address)}")
    return address


def _reach(address: str) -> None:
    """See whether anything answers there at all: Ray itself tries for long, and prints what it thinks of it."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACHED).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from None


def _compare(address: str | None, there: str) -> None:
    """Raises `Refused` where this process is part of another cluster than the one that is asked for."""
    if address not in (None, "auto", there):
        raise Refused(
            Code.FAILED_PRECONDITION,
            "OTHER_CLUSTER",
            f"address: this process has Ray initialised with the cluster at {there} already, not {shown(address)}: "
            f"name no address, or call ray.shutdown() first",
        )


def _unreachable(address: str | None, why: str) -> Refused:
    if address is None:
        what, remedy = "no Ray cluster can be started on this machine", "'ray start --head' may say more"
    else:
        what = f"the Ray cluster at {address} cannot be reached"
        remedy = "name the HOST:PORT of its head as 'ray status' shows it, from a machine that is a node of the cluster"
    return Refused(Code.UNAVAILABLE, "NO_CLUSTER", f"{what}: {why}; {remedy}")
