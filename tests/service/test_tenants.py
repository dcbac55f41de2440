"""Tenants are known by their tokens, and get what their quotas allow."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from google.rpc.code_pb2 import Code

from equipoise.server import tenants as module
from equipoise.server.protocol.failures import Refused
from equipoise.server.tenants import Quotas, Tenant, Tenants, new_token
from equipoise.specs.errors import SpecError


def _entry(name: str, token: str, *lines: str) -> str:
    return "\n".join([f"[{name}]", f'tokens = ["{hashlib.sha256(token.encode()).hexdigest()}"]', *lines, ""])


def _bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {token}")]


def _replace(file: Path, text: str) -> None:
    """As an administrator should: written aside, then moved over the old one."""
    aside = file.with_suffix(".new")
    aside.write_text(text)
    os.replace(aside, file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "tenants.toml"
    file.write_text(_entry("alice", "token-a", "concurrent = 2") + _entry("bob", "token-b"))
    return file


class Clock:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# -- who is it ---------------------------------------------------------------------------------------------------------


def test_without_a_file_everybody_is_the_same_tenant_without_quotas() -> None:
    tenants = Tenants()
    assert tenants.authenticate(()) is tenants.authenticate(_bearer("anything"))
    assert tenants.authenticate(None).name == "default" and tenants.authenticate(None).limits() == Quotas()


def test_a_token_tells_the_tenant(file: Path) -> None:
    tenants = Tenants(file)
    assert tenants.authenticate(_bearer("token-a")).name == "alice"
    assert tenants.authenticate([("Authorization", b"bearer  token-b")]).name == "bob"
    assert tenants.authenticate(_bearer("token-a")) is tenants.authenticate(_bearer("token-a"))


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        None,
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "token-a")],
        [("authorization", "Basic token-a")],
        _bearer("token-c"),
        _bearer("token-a token-b"),
        _bearer("\udcff"),
        _bearer(hashlib.sha256(b"token-a").hexdigest()),
        _bearer("token-a") + _bearer("token-b"),
    ],
    ids=str,
)
def test_whoever_has_no_token_that_is_known_is_not_served(file: Path, metadata: object) -> None:
    with pytest.raises(Refused) as raised:
        Tenants(file).authenticate(metadata)  # pyright: ignore[reportArgumentType]
    assert raised.value.code == Code.UNAUTHENTICATED
    assert "token-" not in str(raised.value)


def test_tokens_whose_digests_begin_alike_are_told_apart(file: Path) -> None:
    tenants = Tenants(file)
    digest = hashlib.sha256(b"token-a").digest()
    tenants._tokens[digest[:4]].insert(0, (digest[:4] + bytes(28), Tenant("impostor")))
    assert tenants.authenticate(_bearer("token-a")).name == "alice"


def test_a_new_token_opens_the_door_that_its_digest_names(tmp_path: Path) -> None:
    token, digest = new_token()
    (tmp_path / "t").write_text(f'[carol]\ntokens = ["{digest}"]\n')
    assert Tenants(tmp_path / "t").authenticate(_bearer(token)).name == "carol"
    assert token not in digest and new_token()[0] != token and len(token) > 40


# -- how much ----------------------------------------------------------------------------------------------------------


def _refusal(tenant: Tenant) -> Refused:
    with pytest.raises(Refused) as raised, tenant.call():
        pass
    assert raised.value.code == Code.RESOURCE_EXHAUSTED
    return raised.value


def test_a_burst_passes_and_then_the_rate_rules() -> None:
    clock = Clock()
    tenant = Tenant("t", Quotas(requests_per_second=10, burst=3), clock)
    for _ in range(3):
        with tenant.call():
            pass
    assert _refusal(tenant).retry_after == pytest.approx(0.1)
    clock.now += 0.06
    assert _refusal(tenant).retry_after == pytest.approx(0.04)
    clock.now += 0.05
    with tenant.call():
        pass
    assert _refusal(tenant).reason == "RATE_QUOTA"


def test_a_long_pause_saves_up_one_burst_and_no_more() -> None:
    clock = Clock()
    tenant = Tenant("t", Quotas(requests_per_second=10, burst=3), clock)
    clock.now += 1e6
    for _ in range(3):
        with tenant.call():
            pass
    _refusal(tenant)


@pytest.mark.parametrize("rate", [0.01, 0.3, 7.0, 1e6])
def test_over_a_long_time_exactly_the_rate_is_let_through(rate: float) -> None:
    clock = Clock()
    tenant = Tenant("t", Quotas(requests_per_second=rate, burst=1), clock)
    passed, waits = 0, list[float]()
    for _ in range(2000):
        try:
            with tenant.call():
                passed += 1
        except Refused as refused:
            waits.append(refused.retry_after or 0)
        clock.now += 0.25 / rate
    assert min(waits) > 0 and max(waits) <= 1 / rate
    assert passed == pytest.approx(500, abs=2)


def test_a_client_that_waits_as_long_as_it_is_told_is_served() -> None:
    clock = Clock()
    tenant = Tenant("t", Quotas(requests_per_second=3, burst=1), clock)
    for _ in range(100):
        with tenant.call():
            pass
        clock.now += _refusal(tenant).retry_after or 0
    with tenant.call():
        pass


def test_calls_in_flight_are_counted_until_they_end_however_they_end(file: Path) -> None:
    tenant = Tenants(file).authenticate(_bearer("token-a"))
    with tenant.call(), tenant.call():
        assert _refusal(tenant).reason == "CONCURRENCY_QUOTA"
    with pytest.raises(ZeroDivisionError), tenant.call():
        raise ZeroDivisionError
    assert tenant.calls == 0
    with tenant.call(), tenant.call():
        pass


def test_a_refused_call_takes_nothing() -> None:
    tenant = Tenant("t", Quotas(requests_per_second=1, burst=1), Clock())
    with tenant.call():
        pass
    before = _refusal(tenant).retry_after
    assert _refusal(tenant).retry_after == before and tenant.calls == 0


def test_sessions_are_counted() -> None:
    tenant = Tenant("t", Quotas(sessions=1))
    with tenant.session():
        with pytest.raises(Refused) as raised, tenant.session():
            pass
        assert raised.value.reason == "SESSION_QUOTA" and raised.value.retry_after
    with tenant.session():
        assert tenant.sessions == 1


def test_tenants_do_not_feel_each_other(file: Path) -> None:
    tenants = Tenants(file)
    alice, bob = tenants.authenticate(_bearer("token-a")), tenants.authenticate(_bearer("token-b"))
    with alice.call(), alice.call(), bob.call(), bob.call(), bob.call():
        assert (alice.calls, bob.calls) == (2, 3)


# -- a file that changes -----------------------------------------------------------------------------------------------


def test_a_changed_file_takes_effect_and_what_is_in_flight_stays_counted(file: Path) -> None:
    tenants = Tenants(file)
    alice = tenants.authenticate(_bearer("token-a"))
    with alice.call():
        _replace(file, _entry("alice", "token-new", "concurrent = 1"))
        tenants.refresh()
        assert tenants.authenticate(_bearer("token-new")) is alice
        assert _refusal(alice).reason == "CONCURRENCY_QUOTA"
    with pytest.raises(Refused):
        tenants.authenticate(_bearer("token-a"))


def test_a_tenant_that_has_gone_is_refused_in_the_middle_of_its_session(file: Path) -> None:
    tenants = Tenants(file)
    bob = tenants.authenticate(_bearer("token-b"))
    _replace(file, _entry("alice", "token-a"))
    tenants.refresh()
    with pytest.raises(Refused) as raised, bob.call():
        pass
    assert raised.value.code == Code.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (_entry("alice", "token-a"), None),
        (_entry("alice", "token-new"), "TOKEN_UNKNOWN"),
        (_entry("alice", "token-new") + _entry("carol", "token-a"), "TOKEN_MOVED"),
    ],
)
def test_a_call_that_lasts_ends_with_its_token(file: Path, then: str, reason: str | None) -> None:
    tenants = Tenants(file)
    renew = tenants.renewal(_bearer("token-a"))
    renew()
    _replace(file, then)
    tenants.refresh()
    if reason is None:
        renew()
        return
    for _ in range(2):  # and stays ended
        with pytest.raises(Refused) as raised:
            renew()
        assert (raised.value.code, raised.value.reason) == (Code.UNAUTHENTICATED, reason)


@pytest.mark.parametrize("broken", ["[alice", "", None], ids=["not toml", "no tokens", "gone"])
def test_a_broken_file_leaves_all_as_it_was(file: Path, broken: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tenants, errors = Tenants(file), []
    monkeypatch.setattr(module, "_log", type("Log", (), {"error": staticmethod(lambda *a, **k: errors.append(k))}))
    if broken is None:
        file.unlink()
    else:
        _replace(file, broken or "[alice]\nconcurrent = 1\n")
    tenants.refresh()
    tenants.refresh()
    assert tenants.authenticate(_bearer("token-a")).name == "alice"
    assert len(errors) == 1, "told once, not each second"


def test_a_file_that_comes_back_is_read(file: Path) -> None:
    tenants, text = Tenants(file), file.read_text()
    file.unlink()
    tenants.refresh()
    file.write_text(text + _entry("carol", "token-c"))
    tenants.refresh()
    assert tenants.authenticate(_bearer("token-c")).name == "carol"


def test_the_file_is_watched(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_AGAIN", 0.01)
    tenants = Tenants(file)

    async def changed() -> None:
        task = asyncio.create_task(tenants.watch())
        _replace(file, _entry("carol", "token-c"))
        async with asyncio.timeout(10):
            while len(tenants._named) != 1:
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(changed())
    assert tenants.authenticate(_bearer("token-c")).name == "carol"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[alice", "not a file of tenants"),
        ("[alice]\n", "tokens"),
        ("[alice]\ntokens = []\n", "tokens"),
        ('[alice]\ntokens = ["eq_plain-text-token"]\n', "SHA-256"),
        (_entry("alice", "a", "concurent = 1"), "alice.concurent"),
        (_entry("alice", "a", "concurrent = 0"), "alice.concurrent"),
        (_entry("alice", "a", "seconds = nan"), "alice.seconds"),
        (_entry("alice", "a", "seconds = -1"), "alice.seconds"),
        (_entry("alice", "a", "burst = 2"), "requests_per_second"),
        (_entry("alice", "a") + _entry("bob", "a"), "bob.tokens"),
        (_entry('"a b"', "a"), "a name takes"),
        (_entry('"../a"', "a"), "a name takes"),
        ("alice = 3\n", "alice"),
        ("\xff", "not a file of tenants"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_at_the_start(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "tenants.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SpecError) as raised:
        Tenants(file)
    assert told in str(raised.value) and str(file) in str(raised.value)
    assert "plain-text" not in str(raised.value), "a token pasted by mistake must not get into logs"


def test_a_file_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        Tenants(tmp_path / "tenants.toml")


def test_every_quota_stands_in_the_manual() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "service.md").read_text("utf-8")
    for name, field in Quotas.model_fields.items():
        assert f"| `{name}` | {field.description} |" in manual
