"""Listening: TCP and unix sockets, TLS whose certificates are replaced while the server runs, mutual TLS."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from equipoise.server import transport
from equipoise.server.settings import ServerSettings
from equipoise.server.transport import Certificates, bind
from equipoise.specs.errors import ServiceError, SpecError

LIMIT = 10.0
"""Seconds that a call may take before a test fails."""


class Authority:
    """Signs certificates, by the openssl program."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._openssl("req", "-x509", *_NEW_KEY, "-keyout", self._file("key"), "-out", self._file("pem"), *_named(name))
        self.pem = folder / f"{name}.pem"

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for this machine and its key."""
        cert, key, request = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
        self._openssl("req", *_NEW_KEY, "-keyout", str(key), "-out", str(request), *_named(name))
        extensions = self.folder / "extensions"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        signer = ("-CA", self._file("pem"), "-CAkey", self._file("key"), "-CAcreateserial")
        self._openssl("x509", "-req", "-in", str(request), *signer, "-extfile", str(extensions), "-out", str(cert))
        return cert, key

    def _file(self, end: str) -> str:
        return str(self.folder / f"{self.name}.{end}")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _named(name: str) -> tuple[str, ...]:
    return "-subj", f"/CN={name}"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("old"), "old-authority")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("new"), "new-authority")


@pytest.fixture
def files(old: Authority, tmp_path: Path) -> dict[str, Path]:
    """The files of a server whose certificate the old authority signed."""
    cert, key = old.issue("server")
    placed = {"tls_cert": tmp_path / "server.pem", "tls_key": tmp_path / "server.key"}
    _replace(placed, cert, key)
    return placed


def _replace(files: dict[str, Path], cert: Path, key: Path) -> None:
    for name, made in (("tls_cert", cert), ("tls_key", key)):
        aside = files[name].with_suffix(".aside")
        aside.write_bytes(made.read_bytes())
        os.replace(aside, files[name])


async def _who(_: bytes, context: Any) -> bytes:
    """Answers with the name in the caller's certificate."""
    return b",".join(context.auth_context().get("x509_common_name", [b"nobody"]))


@asynccontextmanager
async def _running(**settings: Any) -> AsyncIterator[list[str]]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {"Who": grpc.unary_unary_rpc_method_handler(_who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    bound = bind(server, ServerSettings(**settings))
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


def _channel(address: str, trusted: Authority | None = None, own: tuple[Path, Path] | None = None) -> grpc.aio.Channel:
    if trusted is None:
        return grpc.aio.insecure_channel(address)
    cert, key = (None, None) if own is None else (own[0].read_bytes(), own[1].read_bytes())
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(trusted.pem.read_bytes(), key, cert))


async def _call(channel: grpc.aio.Channel) -> bytes:
    return await channel.unary_unary("/test/Who")(b"", timeout=LIMIT)


async def _answer(address: str, trusted: Authority | None = None, own: tuple[Path, Path] | None = None) -> bytes:
    """What a fresh connection gets."""
    async with _channel(address, trusted, own) as channel:
        return await _call(channel)


async def _refused(address: str, trusted: Authority | None = None, own: tuple[Path, Path] | None = None) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _answer(address, trusted, own)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE


# -- addresses -----------------------------------------------------------------------------------------------------


def test_a_free_port_is_found_and_told(tmp_path: Path) -> None:
    async def run() -> None:
        listen = ["127.0.0.1:0", "localhost:0", f"unix:{tmp_path}/socket"]
        async with _running(listen=listen) as bound:
            assert bound[2] == listen[2] and not any(address.endswith(":0") for address in bound)
            for address in bound:
                assert await _answer(address) == b"nobody"

    asyncio.run(run())


def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(ServiceError, match="another program listens there"):
                async with _running(listen=[f"127.0.0.1:{taken.getsockname()[1]}"]):
                    pass

    asyncio.run(run())


def test_a_unix_socket_is_its_owners_alone(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "socket"
        async with _running(listen=[f"unix:{path}"]):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    before = os.umask(0)
    try:
        asyncio.run(run())
        assert os.umask(0) == 0, "the umask is as it was"
    finally:
        os.umask(before)


def test_a_socket_that_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        assert path.exists()
        async with _running(listen=[f"unix:{path}"]) as bound:
            assert await _answer(bound[0]) == b"nobody"

    asyncio.run(run())


def test_a_socket_of_a_live_server_is_left_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with _running(listen=[f"unix:{tmp_path}/socket"]) as bound:
            with pytest.raises(ServiceError, match="another program listens there"):
                async with _running(listen=bound):
                    pass
            assert await _answer(bound[0]) == b"nobody"

    asyncio.run(run())


def test_no_file_is_taken_for_a_socket(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "precious"
        path.write_text("data")
        with pytest.raises(ServiceError, match="not a socket"):
            async with _running(listen=[f"unix:{path}"]):
                pass
        assert path.read_text() == "data"

    asyncio.run(run())


def test_a_socket_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(ServiceError, match="there is no folder"):
            async with _running(listen=[f"unix:{tmp_path}/missing/socket"]):
                pass

    asyncio.run(run())


# -- certificates --------------------------------------------------------------------------------------------------


def test_tls_serves_whoever_trusts_the_authority(files: dict[str, Path], old: Authority, new: Authority) -> None:
    async def run() -> None:
        async with _running(listen=["localhost:0"], **files) as bound:
            assert await _answer(bound[0], old) == b"nobody"
            await _refused(bound[0], new)
            await _refused(bound[0])

    asyncio.run(run())


def test_with_a_client_authority_only_its_clients_are_served(
    files: dict[str, Path], old: Authority, new: Authority
) -> None:
    async def run() -> None:
        async with _running(listen=["localhost:0"], client_ca=new.pem, **files) as bound:
            assert await _answer(bound[0], old, new.issue("trainer")) == b"trainer"
            await _refused(bound[0], old)
            await _refused(bound[0], old, old.issue("stranger"))

    asyncio.run(run())


def test_a_replaced_certificate_is_served_without_a_restart_and_connections_stay(
    files: dict[str, Path], old: Authority, new: Authority
) -> None:
    async def run() -> None:
        async with _running(listen=["localhost:0"], **files) as bound, _channel(bound[0], old) as kept:
            assert await _call(kept) == b"nobody"
            _replace(files, *new.issue("server"))
            assert await _answer(bound[0], new) == b"nobody"
            await _refused(bound[0], old)
            assert await _call(kept) == b"nobody", "a connection outlives the certificate it began with"

    asyncio.run(run())


def test_a_replaced_client_authority_is_followed(files: dict[str, Path], old: Authority, new: Authority) -> None:
    async def run() -> None:
        authorities = files["tls_cert"].with_name("clients.pem")
        authorities.write_bytes(old.pem.read_bytes())
        async with _running(listen=["localhost:0"], client_ca=authorities, **files) as bound:
            await _refused(bound[0], old, new.issue("trainer"))
            authorities.write_bytes(new.pem.read_bytes())
            assert await _answer(bound[0], old, new.issue("trainer")) == b"trainer"

    asyncio.run(run())


@pytest.mark.parametrize("broken", ["half replaced", "gone", "garbage"])
def test_files_that_do_not_fit_leave_the_last_good_ones_in_use(
    files: dict[str, Path], old: Authority, new: Authority, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        told: list[str] = []
        log = type("Log", (), {"error": lambda _, event, **more: told.append(event), "info": lambda *_, **__: None})
        monkeypatch.setattr(transport, "_log", log())
        async with _running(listen=["localhost:0"], **files) as bound:
            cert, key = new.issue("server")
            if broken == "half replaced":
                files["tls_cert"].write_bytes(cert.read_bytes())
            elif broken == "gone":
                files["tls_cert"].unlink()
            else:
                files["tls_key"].write_text("no key")
            for _ in range(3):
                assert await _answer(bound[0], old) == b"nobody"
            assert told == ["certificates_refused"], "told once, not in each handshake"
            _replace(files, cert, key)
            assert await _answer(bound[0], new) == b"nobody"

    asyncio.run(run())


def test_unix_sockets_need_no_certificates(files: dict[str, Path], tmp_path: Path) -> None:
    async def run() -> None:
        async with _running(listen=[f"unix:{tmp_path}/socket"], **files) as bound:
            assert await _answer(bound[0]) == b"nobody"

    asyncio.run(run())


def test_certificates_that_cannot_be_used_are_refused_at_the_start(
    old: Authority, new: Authority, tmp_path: Path
) -> None:
    cert, key = old.issue("server")
    garbage, locked = tmp_path / "garbage", tmp_path / "locked"
    garbage.write_text("no certificate")
    passphrase = ["-aes128", "-passout", "pass:secret"]
    subprocess.run(
        ["openssl", "ec", "-in", str(key), *passphrase, "-out", str(locked)], check=True, capture_output=True
    )
    for files, told in (
        ((tmp_path / "missing", key, None), "No such file"),
        ((cert, new.issue("other")[1], None), "belongs to another certificate"),
        ((garbage, key, None), "PEM"),
        ((cert, locked, None), "passphrase"),
        ((cert, key, garbage), "authorities"),
    ):
        with pytest.raises(SpecError, match=told):
            Certificates(*files)
