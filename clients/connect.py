"""From an address to a client: a service over TCP or a unix socket, or this process where there is no address."""

from __future__ import annotations

from .asked import TIMEOUT, seconds
from .client import AsyncClient, Client

RETRY_FOR = 10.0
"""Seconds in which a call is tried again that the service could not take: as long as a restart takes."""


def connect(
    address: str | None = None,
    *,
    token: str | None = None,
    tls: bool | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    timeout: float = TIMEOUT,
    retry_for: float = RETRY_FOR,
) -> Client:
    """A client of the service at an address; without an address, one that solves in this process.

    address: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`. Nothing is sent before the first call.
    token: the bearer token, where the service asks for one.
    tls: whether to use TLS; if not said, it is used for every host but this machine, and wherever a file is given.
    ca: PEM file of the authorities to trust, instead of the usual ones. cert, key: PEM files of the client's own
        certificate, where the service wants one.
    timeout: seconds for every call that is given none of its own.
    retry_for: seconds in which a call is tried again, after a growing delay, that met no service or a busy one;
        0 for never. A session that was under way is patient until its timeout.

    Raises `ServiceError` for an address or a file that is none.
    """
    patience = seconds("timeout", timeout), seconds("retry_for", retry_for, least=0.0)
    if address is None:
        from .local import LocalClient

        return LocalClient(patience[0])
    from .remote.blocking import RemoteClient
    from .remote.channel import target

    return RemoteClient(target(address, token, tls, ca, cert, key), *patience)


def connect_async(
    address: str | None = None,
    *,
    token: str | None = None,
    tls: bool | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    timeout: float = TIMEOUT,
    retry_for: float = RETRY_FOR,
) -> AsyncClient:
    """As `connect`, for asyncio: `async with connect_async("localhost:50551") as client: await client.solve(spec)`."""
    patience = seconds("timeout", timeout), seconds("retry_for", retry_for, least=0.0)
    if address is None:
        from .local import AsyncLocalClient

        return AsyncLocalClient(patience[0])
    from .remote.awaited import AsyncRemoteClient
    from .remote.channel import target

    return AsyncRemoteClient(target(address, token, tls, ca, cert, key), *patience)
