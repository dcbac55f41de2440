"""Where callers come in: TCP with or without TLS, and unix sockets.

Certificates are read again whenever their files change: each handshake asks for the latest, as gRPC's dynamic server
credentials provide. Files that do not fit together, as in the moment between two of them being replaced, leave the
last good ones in use.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
import threading
from pathlib import Path

import grpc
import structlog

from ..specs.errors import ServiceError, SpecError
from .addresses import Address, address
from .settings import ServerSettings

_log = structlog.get_logger()


class Certificates:
    """The certificate, key and client authorities in their files, as gRPC wants them. Asked from gRPC's threads."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        """Raises `SpecError` for files that make no certificate."""
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._lock = threading.Lock()
        self._seen = self._mark()
        self.first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self.first,
            self.latest,  # pyright: ignore[reportArgumentType]  # None means unchanged, which the stubs leave out
            require_client_authentication=self._client_ca is not None,
        )

    def latest(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold, None if that is what they held before or if they do not fit together."""
        with self._lock:
            if (mark := self._mark()) == self._seen:
                return None
            self._seen = mark
            try:
                found = self._read()
            except SpecError as error:
                _log.error("certificates_refused", error=str(error), remedy="the last good ones stay in use")
                return None
            if self._mark() != mark:  # replaced while they were read: the next handshake will see
                self._seen = None
                return None
            _log.info("certificates_read", cert=str(self._cert))
            return found

    def _files(self) -> list[Path]:
        return [file for file in (self._cert, self._key, self._client_ca) if file is not None]

    def _mark(self) -> object:
        """What changes whenever a file does."""
        return tuple(_stamp(file) for file in self._files())

    def _read(self) -> grpc.ServerCertificateConfiguration:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            cert, key, *authorities = [file.read_bytes() for file in self._files()]
            if b"ENCRYPTED" in key:
                raise ValueError("the key is protected by a passphrase; keep it in a file without one")
            # gRPC would take anything here, and fail in each handshake.
            context.load_cert_chain(self._cert, self._key, password="")
        except (OSError, ValueError) as error:
            raise SpecError(f"no certificate in {self._cert} with its key in {self._key}: {_reason(error)}") from None
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except (OSError, ValueError) as error:
                raise SpecError(f"no certificates of authorities in {self._client_ca}: {_reason(error)}") from None
        return grpc.ssl_server_certificate_configuration([(key, cert)], authorities[0] if authorities else None)


def _stamp(file: Path) -> object:
    try:
        found = os.stat(file)
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_size, found.st_mtime_ns


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key belongs to another certificate"
        return "not in PEM form, or broken" + (f" ({error.reason})" if error.reason else "")
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def bind(server: grpc.aio.Server, settings: ServerSettings) -> list[str]:
    """Have a server listen on all addresses of the settings. Call it before the server starts.

    Returns the addresses with the ports that port 0 became. Raises `SpecError` for certificates that cannot be used,
    `ServiceError` for an address that cannot.
    """
    certificates = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        certificates = Certificates(settings.tls_cert, settings.tls_key, settings.client_ca)
    bound = []
    for text in settings.listen:
        place = address(text)
        if place.path:
            bound.append(str(_bind_socket(server, place)))
            continue
        try:
            if certificates is None:
                port = server.add_insecure_port(text)
            else:
                port = server.add_secure_port(text, certificates.credentials())
        except RuntimeError:
            raise ServiceError(f"cannot listen on {text}: {_why_not(place)}") from None
        bound.append(str(place._replace(port=port)))
    return bound


def _why_not(place: Address) -> str:
    """Why gRPC could not listen: it does not say, so the same is tried by hand."""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, sockaddr in found:
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(sockaddr)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "another program listens there"
        return error.strerror or str(error)
    return "gRPC refused it"


def _bind_socket(server: grpc.aio.Server, place: Address) -> Address:
    """Listen on a unix socket that the owner alone may use. A socket that a dead server left behind is replaced."""
    path, folder = place.path, os.path.dirname(os.path.abspath(place.path))
    if not os.access(folder, os.W_OK | os.X_OK):
        lack = "this user may not write to" if os.path.isdir(folder) else "there is no"
        raise ServiceError(f"cannot listen on {place}: {lack} folder {folder}")
    try:
        if os.path.lexists(path):
            _clear(path)
        before = os.umask(0o077)  # closed from its first moment
        try:
            server.add_insecure_port(f"unix:{path}")
        finally:
            os.umask(before)
        os.chmod(path, 0o600)
    except OSError as error:
        raise ServiceError(f"cannot listen on {place}: {error.strerror or error}") from None
    except RuntimeError:
        raise ServiceError(f"cannot listen on {place}: gRPC refused it") from None
    return place


def _clear(path: str) -> None:
    """Remove a socket that nobody listens on. Raises `ServiceError` for anything else."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ServiceError(f"cannot listen on unix:{path}: there is a file of that name, which is not a socket")
    with socket.socket(socket.AF_UNIX) as trial:
        trial.settimeout(1)
        try:
            trial.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:  # a live server's queue is full, or it is somebody else's
            raise ServiceError(f"cannot listen on unix:{path}: {error.strerror or error}") from None
    raise ServiceError(f"cannot listen on unix:{path}: another program listens there")
