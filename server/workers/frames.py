"""What the server and a worker process say to each other over their socket: frames, each a header and some bytes.

No pickles: a frame carries a message of the protocol or nothing, and one that makes no sense ends the connection.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

LARGEST = 2**30
"""Bytes in one frame, at most."""
_HEADER = struct.Struct("<B?IdQ")


class Kind(IntEnum):
    """What a frame says, and what it carries."""

    READY = 1
    """From a worker: it is warm."""
    SOLVE = 2
    """To a worker, with a `SolveRequest`. seconds: how long the caller waits yet."""
    STOP = 3
    """To a worker: end this solve now, with the best plan so far."""
    STARTED = 4
    """From a worker: the request is read. seconds: how long its own time limit lets it take, with all that follows."""
    PROGRESS = 5
    """From a worker, with a `Progress`."""
    ANSWER = 6
    """From a worker, with a `SolveResponse` or what else was asked for."""
    FAILED = 7
    """From a worker, with a `google.rpc.Status`."""
    CHECK = 8
    """To a worker, with a `CheckRequest`, answered by a `CheckResponse`. seconds: as of SOLVE."""
    CHUNK = 9
    """To a worker, with a `Chunk`; answered by an empty ANSWER once all `Results` are told."""
    RESULTS = 10
    """From a worker, with `Results` of a chunk. seconds: how long the next ones may take."""


_KINDS = frozenset(map(int, Kind))


class Junk(ConnectionError):
    """What came is no frame, or none that makes sense here."""


@dataclass(frozen=True)
class Frame:
    """One message. solve: the number of the solve that it belongs to. last: the worker is not fit for another."""

    kind: Kind
    solve: int = 0
    seconds: float = math.inf
    last: bool = False
    body: bytes = b""


def _packed(frame: Frame, length: int) -> bytes:
    return _HEADER.pack(frame.kind, frame.last, frame.solve, frame.seconds, length)


def _unpacked(header: bytes | bytearray) -> tuple[Frame, int]:
    kind, last, solve, seconds, length = _HEADER.unpack(header)
    if kind not in _KINDS or length > LARGEST or math.isnan(seconds):
        raise Junk(f"{bytes(header)!r} begins no frame")
    return Frame(Kind(kind), solve, seconds, last), length


# -- in a worker: blocking -------------------------------------------------------------------------------------------


def send(connection: socket.socket, frame: Frame, parts: Sequence[bytes | memoryview] = ()) -> None:
    """Send a frame whose bytes come in parts, none of which is copied."""
    connection.sendall(_packed(frame, sum(map(len, parts))))
    for part in parts:
        connection.sendall(part)


def receive(connection: socket.socket) -> Frame:
    """The next frame. Raises `ConnectionError` at the end, be it in the middle of one, and `Junk`."""
    frame, length = _unpacked(_exactly(connection, _HEADER.size))
    return Frame(frame.kind, frame.solve, frame.seconds, frame.last, bytes(_exactly(connection, length)))


def _exactly(connection: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise ConnectionError("the connection ended")
        view = view[count:]
    return data


# -- in the server: on the event loop, which is given back after each piece ------------------------------------------


async def send_soon(connection: socket.socket, frame: Frame, body: bytes | memoryview = b"") -> None:
    """Send a frame with these bytes without holding up the event loop."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, _packed(frame, len(body)))
    if body:
        await loop.sock_sendall(connection, body)


async def receive_soon(connection: socket.socket) -> Frame:
    """The next frame, without holding up the event loop. Raises `ConnectionError` at the end, and `Junk`."""
    frame, length = _unpacked(await _exactly_soon(connection, _HEADER.size))
    body = bytes(await _exactly_soon(connection, length)) if length else b""
    return Frame(frame.kind, frame.solve, frame.seconds, frame.last, body)


async def _exactly_soon(connection: socket.socket, length: int) -> bytearray:
    loop = asyncio.get_running_loop()
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = await loop.sock_recv_into(connection, view)
        if not count:
            raise ConnectionError("the connection ended")
        view = view[count:]
    return data
