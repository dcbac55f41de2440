"""The way to a service: its address, TLS, the token, and how the channel behaves."""

from __future__ import annotations

import ssl
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc

from ...server.addresses import Address, address
from ...specs.errors import ServiceError, shown

LARGEST_ANSWER = 2**30
"""Bytes of one answer, at most."""
KEEPALIVE, KEEPALIVE_TIMEOUT = 60_000, 20_000
"""Milliseconds after which a silent service is asked whether it is there, and in which it has to say so."""
RECONNECT, RECONNECT_MOST = 100, 2_000
"""Milliseconds between two attempts to connect, at first and at most."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Target:
    """A service and how to reach it.

    metadata: what goes out with every call: the token. credentials: None for plain text.
    """

    address: Address
    metadata: Metadata = ()
    credentials: grpc.ChannelCredentials | None = None

    @cached_property
    def options(self) -> list[tuple[str, Any]]:
        """How a channel to it behaves."""
        chosen = [
            ("grpc.max_receive_message_length", LARGEST_ANSWER),
            ("grpc.max_send_message_length", -1),  # the service says what is too large for it
            ("grpc.keepalive_time_ms", KEEPALIVE),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT),
            ("grpc.http2.max_pings_without_data", 0),  # a session may be silent for long
            ("grpc.initial_reconnect_backoff_ms", RECONNECT),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MOST),
            ("grpc.enable_retries", 0),  # `Patience` repeats what is to be repeated
            ("grpc.primary_user_agent", f"equipoise/{version('equipoise')}"),
        ]
        # A proxy of the environment is not meant for what only this machine can reach.
        return [*chosen, ("grpc.enable_http_proxy", 0)] if self.address.local else chosen

    def call_metadata(self) -> Metadata:
        """What goes out with one call: the token, and the trace that the caller is in."""
        if "opentelemetry" not in sys.modules:  # then nobody can have begun a trace
            return self.metadata
        from opentelemetry.propagate import inject

        carrier: MutableMapping[str, str] = {}
        inject(carrier)
        return (*self.metadata, *((key.lower(), value) for key, value in carrier.items()))  # as HTTP/2 wants them


def target(
    text: str,
    token: str | None = None,
    tls: bool | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
) -> Target:
    """The service that a user names. Raises `ServiceError` for what names none."""
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ServiceError(f"the address of a service must be HOST:PORT, [IPV6]:PORT or unix:PATH, got {shown(text)}")
    try:
        found = address(text)
    except ValueError as error:
        raise ServiceError(f"the address of a service {error}") from None
    files = {name: path for name, path in (("ca", ca), ("cert", cert), ("key", key)) if path is not None}
    if tls is False and files:
        raise ServiceError(f"tls=False takes no {', '.join(files)}: leave them out, or leave tls out")
    if (cert is None) != (key is None):
        raise ServiceError("cert and key belong together: give both files, or neither")
    secure = bool(files) or not found.local if tls is None else tls
    metadata = () if token is None else (("authorization", f"Bearer {_token(token)}"),)
    return Target(found, metadata, _credentials(files) if secure else None)


def _token(token: str) -> str:
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ServiceError("token: must be a string of printable ASCII characters, as `equipoise token` makes them")
    return token.strip()


def _credentials(files: dict[str, str]) -> grpc.ChannelCredentials:
    """TLS, with the files that were given. Raises `ServiceError` for one that does not hold what it should."""
    data = {name: _read(name, path) for name, path in files.items()}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reads the files to say what is wrong with them; gRPC would not
    try:
        if "ca" in files:
            context.load_verify_locations(files["ca"])
        if "cert" in files:
            context.load_cert_chain(files["cert"], files["key"], password=_refuse_password)
    except (ssl.SSLError, OSError) as error:
        listed = ", ".join(f"{name}={path}" for name, path in files.items())
        raise ServiceError(
            f"TLS files in PEM form are wanted, with the key of the certificate ({listed}): {error}"
        ) from None
    return grpc.ssl_channel_credentials(data.get("ca"), data.get("key"), data.get("cert"))


def _refuse_password() -> str:
    raise ServiceError("key: must not be encrypted")


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError, TypeError) as error:
        raise ServiceError(
            f"{name}: {shown(path)} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
