"""Databases for tests: a SQLite file, and a PostgreSQL server of the test run's own where its programs are installed.

Where they are not, those tests are skipped, or fail if EQUIPOISE_TEST_POSTGRESQL is "required".
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from pwd import getpwnam
from typing import Any
from uuid import uuid4

import psycopg
import pytest

START = 60.0
"""Seconds that PostgreSQL has to start, and to stop."""


def _program(name: str) -> str | None:
    """Debian keeps the programs of its servers off the path."""
    return shutil.which(name) or next(iter(sorted(glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True)), None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL server on a socket in a temporary folder, which is its address."""
    initdb, server = _program("initdb"), _program("postgres")
    if initdb is None or server is None:
        text = "PostgreSQL's programs are not installed: apt-get install postgresql"
        if os.environ.get("EQUIPOISE_TEST_POSTGRESQL") == "required":
            pytest.fail(text)
        pytest.skip(text)
    folder = tempfile.mkdtemp(prefix="equipoise-pg-")  # short: a socket's path may have 107 characters
    owner = dict[str, Any]()
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        nobody = getpwnam("nobody")
        owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    data = f"{folder}/data"
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC", "HOME": folder}
    subprocess.run(
        [initdb, "--pgdata", data, "--username", "equipoise", "--auth", "trust", "--encoding", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        timeout=START,
        cwd=folder,
        env=environment,
        **owner,
    )
    with open(f"{folder}/log", "wb") as log:
        process = subprocess.Popen(
            [server, "-D", data, "-k", folder, "-h", "", "-F"],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment,
            **owner,
        )
    try:
        _wait(folder, process)
        yield folder
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nothing here is worth a checkpoint
        process.wait(START)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(folder: str, process: subprocess.Popen[Any]) -> None:
    end = time.monotonic() + START
    while True:
        try:
            psycopg.connect(_url(folder), connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(Path(folder, "log").read_text()) from None
            time.sleep(0.05)


def _url(folder: str) -> str:
    return f"postgresql://equipoise@/postgres?host={folder}"


def fresh_database(folder: str) -> str:
    """The address of a new, empty schema: a database of its own would be a thousand files."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(_url(folder), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"{_url(folder)}&options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new store, in a database of either make."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'equipoise.sqlite'}"
    return fresh_database(request.getfixturevalue("postgresql"))
