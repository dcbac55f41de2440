"""From an address to a client: what is refused before anything is sent, what is encrypted, what is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import equipoise as eq
from equipoise.clients.remote.channel import target


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", "host:99999", "::1:5", "unix:", 7])
@pytest.mark.parametrize("connect", [eq.connect, eq.connect_async])
def test_an_address_that_is_none_is_refused(address: Any, connect: Callable[..., Any]) -> None:
    with pytest.raises(eq.ServiceError, match="the address of a service"):
        connect(address)


@pytest.mark.parametrize(
    ("address", "tls", "secure"),
    [
        ("localhost:1", None, False),
        ("127.0.0.1:1", None, False),
        ("[::1]:1", None, False),
        ("unix:/run/equipoise.sock", None, False),
        ("solver.example:1", None, True),
        ("10.0.0.1:1", None, True),
        ("10.0.0.1:1", False, False),
        ("localhost:1", True, True),
    ],
)
def test_what_leaves_this_machine_is_encrypted_unless_told_otherwise(
    address: str, tls: bool | None, secure: bool
) -> None:
    assert (target(address, tls=tls).credentials is not None) == secure


def test_files_for_tls_are_looked_at_first(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text("no certificate")
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"ca": str(tmp_path / "absent.pem")}, "ca: .* cannot be read: No such file"),
        ({"ca": str(other)}, "PEM form"),
        ({"cert": str(other)}, "cert and key belong together"),
        ({"cert": str(other), "key": str(other)}, "PEM form"),
        ({"ca": str(other), "tls": False}, "tls=False takes no ca"),
        ({"token": "two\nlines"}, "token: must be"),
    )
    for options, message in cases:
        with pytest.raises(eq.ServiceError, match=message):
            eq.connect("localhost:1", **options)


def test_connecting_loads_no_more_than_it_needs() -> None:
    code = "import equipoise as eq, sys; eq.connect, eq.connect(), eq.Client, eq.Job; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert not {name.partition(".")[0] for name in done.stdout.split()} & {"grpc", "google", "torch"}
