"""`equipoise serve` and `equipoise token`: the server as an administrator meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from typer.testing import CliRunner

from equipoise.clients.cli.app import app
from equipoise.clients.cli.serving import default_shown
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.settings import ServerSettings
from equipoise.server.tenants import Tenants

LIMIT = 240
"""Seconds that a server may take to start or to stop before a test fails."""
DOCS = Path(__file__).parents[2] / "docs" / "service.md"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EQUIPOISE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "equipoise", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)


class Serving:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.told = process.stdout.readline()
        self.addresses = self.told.removeprefix("ready on ").strip().split(", ")

    def call(self, method: str, request: bytes, token: str | None = None) -> bytes:
        """The answer of one method."""
        metadata = None if token is None else (("authorization", f"Bearer {token}"),)
        with grpc.insecure_channel(self.addresses[0]) as channel:
            return channel.unary_unary(method)(request, timeout=LIMIT, metadata=metadata)

    def event(self, name: str) -> dict[str, str]:
        """The next event of that name in the log."""
        assert self.process.stderr is not None
        while (event := json.loads(self.process.stderr.readline()))["event"] != name:
            pass
        return event

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """The exit code, and what it logged."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        logged = self.process.stderr.read()  # `communicate` would lose what has been read ahead of a line
        return self.process.wait(LIMIT), logged


@contextmanager
def _serving(folder: Path, *flags: str) -> Iterator[Serving]:
    command = [sys.executable, "-m", "equipoise", "serve", "--data", str(folder), "--workers", "1", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Serving(process)
        finally:
            if process.poll() is None:
                process.kill()


def test_a_server_says_where_it_is_answers_and_leaves_when_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_WORKRS", "3")
    flags = ("--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path}/socket", "--log-format", "json")
    with _serving(tmp_path, *flags, "--metrics", "127.0.0.1:0") as server:
        assert re.fullmatch(rf"ready on 127\.0\.0\.1:\d+, unix:{tmp_path}/socket\n", server.told)
        health = server.call("/grpc.health.v1.Health/Check", b"")
        assert health_pb2.HealthCheckResponse.FromString(health).status == health_pb2.HealthCheckResponse.SERVING
        kinds = pb.ListKindsResponse.FromString(server.call("/equipoise.v1.Balancer/ListKinds", b""))
        assert "rollout_budgets" in {kind.name for kind in kinds.kinds}
        unknown, metrics = server.event("unknown_variable"), server.event("metrics_served")
        assert unknown["problem"] == "EQUIPOISE_WORKRS is not a setting; did you mean workers?"
        with urllib.request.urlopen(metrics["address"], timeout=LIMIT) as answer:
            assert b"equipoise_requests_total" in answer.read()
        code, logged = server.stop()
    calls = [line for line in map(json.loads, logged.splitlines()) if line["event"] == "call"]
    assert code == 0
    assert [(line["rpc"], line["tenant"], line["code"]) for line in calls] == [
        ("equipoise.v1.Balancer/ListKinds", "default", "OK")
    ]


def test_a_tenant_comes_in_with_the_token_that_was_made_for_it(tmp_path: Path) -> None:
    made = json.loads(_run("token", "alice", "--json").stdout)
    (tmp_path / "tenants.toml").write_text(f'[alice]\ntokens = ["{made["sha256"]}"]\n')
    (tmp_path / "server.toml").write_text(f'tenants = "{tmp_path}/tenants.toml"\nlisten = ["127.0.0.1:0"]\n')
    with _serving(tmp_path, "--config", str(tmp_path / "server.toml")) as server:
        assert server.call("/equipoise.v1.Balancer/ListKinds", b"", made["token"])
        with pytest.raises(grpc.RpcError) as raised:
            server.call("/equipoise.v1.Balancer/ListKinds", b"")
        code, logged = server.stop(signal.SIGINT)
    assert isinstance(raised.value, grpc.Call) and raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert code == 0 and made["token"] not in logged and "alice" in logged


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--workers", "0"), "--workers"),
        (("--listen", "0.0.0.0:0"), "open to the network"),
        (("--config", "missing.toml"), "missing.toml"),
        (("--no-such-flag",), "No such option"),
    ],
)
def test_a_bad_setting_is_bad_usage(flags: tuple[str, ...], told: str) -> None:
    ended = CliRunner().invoke(app, ["serve", *flags])
    assert ended.exit_code == 2 and told in ended.stderr and not ended.stdout


def test_a_server_whose_tenants_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    ended = _run("serve", "--data", str(tmp_path), "--tenants", "missing.toml")
    assert ended.returncode == 2 and "missing.toml: cannot be read" in ended.stderr and "Traceback" not in ended.stderr


def test_without_the_extra_the_command_says_what_to_install() -> None:
    script = "import sys; sys.modules['structlog'] = None; from equipoise.clients.cli.app import main; main()"
    command = [sys.executable, "-c", script, "serve"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert ended.returncode == 2
    assert "the service needs structlog: pip install 'equipoise[server]'" in ended.stderr


def test_a_token_is_printed_with_the_lines_for_the_file(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["token", "team.a"]).stdout
    (token,) = re.findall(r"^ +(eq_\S+)$", told, re.MULTILINE)
    lines = told[told.index("[") :]
    (tmp_path / "tenants.toml").write_text(lines)
    tenants = Tenants(tmp_path / "tenants.toml")
    assert tenants.authenticate([("authorization", f"Bearer {token}")]).name == "team.a"
    assert token not in lines


def test_an_impossible_tenant_gets_no_token() -> None:
    ended = CliRunner().invoke(app, ["token", "../alice"])
    assert ended.exit_code == 2 and "eq_" not in ended.stdout


def test_every_setting_is_a_flag_and_stands_in_the_manual() -> None:
    told = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).stdout
    manual = DOCS.read_text("utf-8")
    for name, field in ServerSettings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in told
        assert f"| `{name}` | {_in_manual(name)} | {field.description} |" in manual


def _in_manual(name: str) -> str:
    """The default of a setting as the manual shows it, which does not depend on the machine."""
    known = {"data": "`~/.local/state/equipoise`", "threads": "cores", "workers": "cores", "solver_threads": "cores"}
    return known.get(name) or f"`{default_shown(name, ServerSettings.model_fields[name]) or '—'}`".replace("`—`", "—")
