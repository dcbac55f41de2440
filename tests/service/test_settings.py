"""Settings come from flags, environment and file, in this order; what is wrong is refused with its origin."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.server.addresses import address
from equipoise.server.settings import ServerSettings, read_settings, unknown_variables
from equipoise.specs.errors import SpecError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EQUIPOISE_")]:
        monkeypatch.delenv(name)


def _written(folder: Path, text: str) -> Path:
    file = folder / "server.toml"
    file.write_text(text)
    return file


def test_a_server_that_was_told_nothing_listens_on_this_machine_alone() -> None:
    settings = read_settings()
    assert settings.listen == ["127.0.0.1:50551"]
    assert settings.workers >= 1 and settings.threads >= 1
    assert settings.metrics is None and settings.otlp is None


def test_a_flag_counts_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _written(tmp_path, "drain = 1\nworkers = 1\nthreads = 1\n")
    monkeypatch.setenv("EQUIPOISE_DRAIN", "2")
    monkeypatch.setenv("EQUIPOISE_WORKERS", "2")
    settings = read_settings(config=file, drain=3, otlp=None)
    assert (settings.drain, settings.workers, settings.threads) == (3, 2, 1)


def test_the_environment_can_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIPOISE_CONFIG", str(_written(tmp_path, "drain = 1")))
    assert read_settings().drain == 1


def test_addresses_in_one_variable_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIPOISE_LISTEN", "127.0.0.1:0, unix:///run/equipoise.sock,[::1]:50551")
    assert read_settings().listen == ["127.0.0.1:0", "unix:/run/equipoise.sock", "[::1]:50551"]


def test_sizes_may_carry_their_unit() -> None:
    assert read_settings(largest_message="8 MiB", cache=0).largest_message == 8 * 2**20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", []),
        ("listen", ["50551"]),
        ("listen", ["127.0.0.1"]),
        ("listen", ["127.0.0.1:65536"]),
        ("listen", ["127.0.0.1:http"]),
        ("listen", ["::1:50551"]),
        ("listen", [":50551"]),
        ("listen", ["unix:"]),
        ("listen", ["unix:/" + "x" * 100]),
        ("listen", ["127.0.0.1:1", "127.0.0.1:1"]),
        ("metrics", "unix:/run/metrics.sock"),
        ("otlp", "collector:4317"),
        ("store", "mysql://localhost/jobs"),
        ("workers", 0),
        ("threads", 0),
        ("drain", "nan"),
        ("drain", -1),
        ("retention", "inf"),
        ("lease", 0.5),
        ("largest_message", "2 GiB"),
        ("worker_memory", "1 MiB"),
        ("log_level", "loud"),
        ("engine", "cluster"),
        ("ray_address", "head:6379"),  # of a cluster that nothing runs on
        ("config", "no/such/file.toml"),
    ],
)
def test_an_impossible_value_is_refused(name: str, value: object) -> None:
    with pytest.raises(SpecError):
        read_settings(**{name: value})


def test_each_problem_says_where_its_value_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _written(tmp_path, "drain = -1\nworkrs = 2\n")
    monkeypatch.setenv("EQUIPOISE_THREADS", "0")
    with pytest.raises(SpecError) as raised:
        read_settings(config=file, most_queued=0)
    told = str(raised.value)
    for part in ("--most-queued: ", "EQUIPOISE_THREADS: ", f"{file}: drain: ", "did you mean workers?"):
        assert part in told


def test_a_refused_store_does_not_tell_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIPOISE_STORE", "mysql://user:hunter2@host/jobs")
    with pytest.raises(SpecError) as raised:
        read_settings()
    assert "mysql" in str(raised.value) and "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(ServerSettings(store="postgresql://user:hunter2@host/jobs"))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    file = _written(tmp_path, "drain = = 1")
    with pytest.raises(SpecError, match=r"server\.toml: is not valid TOML"):
        read_settings(config=file)


def test_variables_that_are_no_settings_are_told_of() -> None:
    found = unknown_variables({"EQUIPOISE_WORKRS": "2", "EQUIPOISE_DEBUG": "1", "EQUIPOISE_DRAIN": "1", "HOME": "/"})
    assert found == ["EQUIPOISE_WORKRS is not a setting; did you mean workers?"]


# -- addresses that strangers could reach -----------------------------------------------------------------------------

NETWORK = "0.0.0.0:50551"
TLS = {"tls_cert": "cert.pem", "tls_key": "key.pem"}


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/run/x.sock"])
def test_this_machine_needs_neither_tls_nor_tokens(address: str) -> None:
    assert read_settings(listen=[address]).listen == [address]


@pytest.mark.parametrize("address", [NETWORK, "[::]:1", "10.0.0.1:1", "example.org:1", "0:1", "127.1:1"])
@pytest.mark.parametrize("given", [{}, {"tenants": "tenants.toml"}, TLS])
def test_the_network_needs_tls_and_a_way_to_know_the_caller(address: str, given: dict[str, str]) -> None:
    with pytest.raises(SpecError, match="open to the network"):
        read_settings(listen=[address], **given)


@pytest.mark.parametrize("known", [{"tenants": "tenants.toml"}, {"client_ca": "ca.pem"}])
def test_with_tls_and_known_callers_the_network_is_served(known: dict[str, str]) -> None:
    assert read_settings(listen=[NETWORK], **TLS, **known).listen == [NETWORK]


def test_told_twice_the_network_is_served_without() -> None:
    assert read_settings(listen=[NETWORK], insecure=[NETWORK]).insecure == [NETWORK]


def test_telling_twice_covers_no_other_address() -> None:
    with pytest.raises(SpecError, match=r"10\.0\.0\.1:1 would be open"):
        read_settings(listen=[NETWORK, "10.0.0.1:1"], insecure=[NETWORK])
    with pytest.raises(SpecError, match="which listen does not"):
        read_settings(insecure=[NETWORK])


@pytest.mark.parametrize("given", [{"tls_cert": "a"}, {"tls_key": "a"}, {"client_ca": "a"}])
def test_half_of_a_tls_setup_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(SpecError):
        read_settings(**given)


@given(st.one_of(st.text(), st.text("[]:.unix/0123456789abf", max_size=30)))
def test_an_address_is_refused_or_means_what_it_says(text: str) -> None:
    try:
        place = address(text)
    except ValueError:
        return
    assert address(str(place)) == place
    assert bool(place.path) != bool(place.host)


# -- what follows ------------------------------------------------------------------------------------------------------


def test_jobs_are_kept_in_the_data_folder_unless_there_is_a_store(tmp_path: Path) -> None:
    assert read_settings(data=tmp_path).store_url == f"sqlite:///{tmp_path}/equipoise.sqlite"
    assert read_settings(store="postgresql://host/jobs").store_url == "postgresql+psycopg://host/jobs"


def test_the_limits_of_a_document_follow_the_settings() -> None:
    limits = read_settings(largest_json=2**20, largest_numbers=1000).limits
    assert (limits.json_bytes, limits.numbers) == (2**20, 1000)
