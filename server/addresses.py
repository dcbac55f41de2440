"""Where a server listens: hosts with ports, and unix sockets."""

from __future__ import annotations

import ipaddress
import os
from typing import NamedTuple

from ..specs.errors import shown


class Address(NamedTuple):
    """Where to listen: a host and a port, or the path of a unix socket."""

    host: str
    port: int
    path: str = ""

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """An address from `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`. Raises `ValueError`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path or "\0" in path or len(os.fsencode(path)) > 100:
            raise ValueError(f"unix:PATH needs a path of at most 100 bytes, got {shown(text)}")
        return Address("", 0, path)
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or (":" in host) != bracketed or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"must be HOST:PORT, [IPV6]:PORT or unix:PATH, got {shown(text)}")
    return Address(host, int(port))
