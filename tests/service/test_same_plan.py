"""One source of truth: a spec has the same plan, bit for bit, by whichever way it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import equipoise as eq
from equipoise.specs.saving import detach
from equipoise.specs.spec import Plan, Spec

from .running import running

EXAMPLES = sorted((Path(__file__).parents[2] / "specs" / "examples").glob("**/*.yaml"))
WAYS = ("local", "tcp", "unix", "job", "session")


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, eq.Client]]:
    folder = tmp_path_factory.mktemp("data")
    with running(folder, listen=["127.0.0.1:0", f"unix:{folder}/socket"]) as server:
        tcp, unix = server.server.addresses
        with eq.connect() as local, eq.connect(tcp) as over_tcp, eq.connect(unix) as over_unix:
            yield {"local": local, "tcp": over_tcp, "unix": over_unix, "job": over_tcp, "session": over_unix}


def asked(way: str, client: eq.Client, spec: Spec[Any], method: Any) -> Plan:
    if way == "job":
        return client.submit(spec, method=method).result(timeout=60)
    if way == "session":
        with client.session(spec, method=method) as session:
            return session.step()
    return client.solve(spec, method=method)


def bits(plan: Plan) -> tuple[Any, dict[str, bytes], dict[str, Any]]:
    """All of a plan and its certificate, but for what depends on the clock and on whether code was compiled."""
    slim, arrays = detach(plan.fields())
    claims = {**plan.certificate.document(), "seconds": 0.0}
    claims["notes"] = [note for note in claims["notes"] if "compiled" not in note]
    return slim, {name: array.tobytes() for name, array in arrays.items()}, claims


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["auto", "exact", "fast"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_spec_has_one_plan(clients: dict[str, eq.Client], path: Path, method: Any, way: str) -> None:
    spec = eq.load(path)
    assert bits(asked(way, clients[way], spec, method)) == bits(eq.solve(spec, method=method))
