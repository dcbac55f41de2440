"""How a database of either make is opened and fails: SQLite in a file, or PostgreSQL.

Both run the same statements. What changes a job takes one lock for the whole database first, so a transaction that
reads, decides and writes needs no further thought; jobs are few and heavy, and the lock is held for milliseconds.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.rpc.code_pb2 import Code
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, insert, inspect, make_url, select

from ..specs.errors import ServiceError
from .protocol.failures import Refused
from .tables import VERSION, about, metadata

PATIENCE = 5.0
"""Seconds to wait for a lock, or for a connection."""
LONGEST = 30.0
"""Seconds that one statement may take."""
CONNECTIONS = 6
RETRY = 1.0
"""Seconds after which a caller may try again when the database has failed."""
_LOCK = 0x65715F6A6F6273
"""The advisory lock of PostgreSQL that stands for all of our tables."""


class Database:
    """An open database with our tables. For any thread."""

    def __init__(self, url: str) -> None:
        """Opens it, and makes the tables in an empty one.

        Raises `ServiceError` for an address or a database that cannot be used, `Refused` for one that cannot be
        reached now.
        """
        self._engine = _engine(url)
        try:
            with self.writing() as connection:
                _prepare(connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let all connections go."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only looks. Raises `Refused`, UNAVAILABLE, where the database fails."""
        with _told(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that has the tables to itself. Raises `Refused`, UNAVAILABLE, where the database fails."""
        with _told(), self._engine.connect() as connection:
            connection.execution_options(equipoise_alone=True)
            with connection.begin():
                yield connection


def _prepare(connection: Connection) -> None:
    if not inspect(connection).has_table(about.name):
        metadata.create_all(connection)
        connection.execute(insert(about).values(version=VERSION, turn=0, served=0.0))
    found = connection.execute(select(about.c.version)).scalar_one()
    if found != VERSION:
        raise ServiceError(
            f"the store has tables of version {found}, and this server reads version {VERSION}: "
            "give it a store of its own, or run the server that made this one"
        )


# -- connections -----------------------------------------------------------------------------------------------------


def _engine(url: str) -> Engine:
    try:
        address = make_url(url)
    except exc.ArgumentError:
        raise ServiceError("the store's address must begin with postgresql:// or sqlite:///") from None
    match address.get_backend_name():
        case "sqlite":
            return _sqlite(address)
        case "postgresql":
            return _postgresql(address)
        case other:
            raise ServiceError(f"the store's address must begin with postgresql:// or sqlite:///, got {other:.60}://")


# Errors are logged, and would tell what tenants ask: the parameters of a statement stay out of them.
_COMMON: dict[str, Any] = {"pool_size": CONNECTIONS, "max_overflow": 0, "hide_parameters": True}


def _sqlite(address: URL) -> Engine:
    if address.database in (None, "", ":memory:") or address.query:
        raise ServiceError("the store must be a file: sqlite:////FOLDER/FILE")
    file = Path(str(address.database))
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What tenants ask is for nobody else's eyes; SQLite gives its other files the same mode.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ServiceError(f"the store {file} cannot be opened: {error.strerror}") from None
    engine = create_engine(address, connect_args={"timeout": PATIENCE}, pool_timeout=PATIENCE, **_COMMON)

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        # FULL: a job that was acknowledged survives a loss of power.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        # A transaction that starts by reading and then writes would fail at once where another one writes.
        alone = connection.get_execution_options().get("equipoise_alone")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if alone else "BEGIN")

    return engine


def _postgresql(address: URL) -> Engine:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ServiceError("a PostgreSQL store needs psycopg: pip install 'equipoise[postgresql]'") from None
    engine = create_engine(
        address.set(drivername="postgresql+psycopg"),
        # The last one bounds the wait for a server that has vanished without a word; milliseconds.
        connect_args={
            "connect_timeout": round(PATIENCE),
            "application_name": "equipoise",
            "tcp_user_timeout": round(2000 * PATIENCE),
        },
        pool_pre_ping=True,
        pool_timeout=PATIENCE,
        **_COMMON,
    )

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {round(1000 * PATIENCE)}")
            cursor.execute(f"SET statement_timeout = {round(1000 * LONGEST)}")
            cursor.execute(f"SET idle_in_transaction_session_timeout = {round(1000 * LONGEST)}")
        connection.commit()

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        if connection.get_execution_options().get("equipoise_alone"):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")

    return engine


# -- failures --------------------------------------------------------------------------------------------------------

_SQLITE = {"BUSY": "is locked", "LOCKED": "is locked", "FULL": "has no room left on its disk"}
_POSTGRESQL = {
    "53100": "has no room left on its disk",
    "53300": "has too many connections",
    "55P03": "is locked",
    "57014": "took too long",
    "25006": "may only be read",
}


@contextmanager
def _told() -> Iterator[None]:
    """Failures of the database, but not of our statements, as `Refused`: nothing was changed, or it is not known."""
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError) as error:
        raise _unavailable(error) from error
    except exc.DatabaseError as error:
        if type(error) is not exc.DatabaseError:  # SQLite's for a damaged file
            raise
        raise _unavailable(error) from error


def _unavailable(error: exc.SQLAlchemyError) -> Refused:
    """Says what is wrong in our words: a driver's tell of hosts, users and files."""
    found = getattr(error, "orig", None)
    if isinstance(found, sqlite3.Error):
        name = getattr(found, "sqlite_errorname", "").removeprefix("SQLITE_")
        what = _SQLITE.get(name.partition("_")[0], f"cannot be used ({name or 'no reason given'})")
    elif isinstance(error, exc.TimeoutError):
        what = "has no connection free"
    else:
        what = _POSTGRESQL.get(getattr(found, "sqlstate", None) or "", "cannot be reached")
    return Refused(Code.UNAVAILABLE, "STORE", f"the store of jobs {what} just now: try again", RETRY)
