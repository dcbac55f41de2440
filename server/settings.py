"""How a server is set up: every setting with its meaning, its bounds and its default, from flags, environment and file.

A flag counts before the variable `EQUIPOISE_NAME`, that before the line `name = …` of the TOML file, and that before
the default. What stands in none of them is not guessed: an unknown name, an impossible value and an address that
would be open to strangers are errors that say where the value came from.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ..specs.errors import Problem, SpecError, shown
from .addresses import address
from .protocol.wire import Limits
from .workers.engines import LEAST_MEMORY, Engine, cores

PREFIX = "EQUIPOISE_"
_OTHERS = {"EQUIPOISE_DEBUG"}
"""Variables of ours that are no settings of a server."""

_size = TypeAdapter(ByteSize)


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _sized(value: Any) -> int:
    return int(_size.validate_python(value))


def _data_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "equipoise"


def _listed(value: list[str]) -> list[str]:
    return [str(address(text)) for text in value]


Addresses = Annotated[list[str], NoDecode, BeforeValidator(_split), Field(max_length=64)]
Size = Annotated[int, BeforeValidator(_sized), Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ServerSettings(BaseSettings):
    """What `equipoise serve` can be told. Sizes are in bytes or written as `64 MiB`, times in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    config: Path | None = Field(default=None, description="a TOML file with any of these settings")

    listen: Addresses = Field(
        default=["127.0.0.1:50551"],
        min_length=1,
        description="where to listen: HOST:PORT or unix:PATH, any number of them; port 0 is a free one",
    )
    insecure: Addresses = Field(
        default=[],
        description="which of these addresses may be open to the network without TLS, or without tokens and client "
        "certificates; each must be named a second time here",
    )
    tls_cert: Path | None = Field(default=None, description="certificate chain in PEM; read again when it changes")
    tls_key: Path | None = Field(default=None, description="private key in PEM")
    client_ca: Path | None = Field(
        default=None, description="authorities in PEM, one of which must have signed each client"
    )
    tenants: Path | None = Field(default=None, description="TOML file of tenants, their tokens and quotas")

    data: Path = Field(default_factory=_data_folder, description="folder of what must survive a restart")
    store: str | None = Field(
        default=None,
        repr=False,
        description="database of the jobs, postgresql://… for servers that share one queue; SQLite in the data folder "
        "if absent",
    )
    retention: Seconds = Field(default=7 * 86400.0, description="seconds that an ended job is kept")
    lease: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=15.0, description="seconds after which a job whose server has gone silent is taken over"
    )
    most_queued: PositiveInt = Field(default=10_000, description="jobs that may wait, of all tenants together")
    most_queued_per_tenant: PositiveInt = Field(default=1000, description="jobs that may wait, of one tenant")

    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        default_factory=cores, description="threads that answer what needs no search; as many as cores"
    )
    engine: Engine = Field(
        default="local", description="where the workers are: processes of this machine, or actors of a Ray cluster"
    )
    ray_address: str | None = Field(
        default=None,
        description="HOST:PORT of the cluster's head, or `auto` where this machine is part of it; if absent, the "
        "variable RAY_ADDRESS, or else a cluster that is started on this machine",
    )
    workers: Annotated[int, Field(ge=1, le=1024)] = Field(
        default_factory=lambda: max(2, cores()),
        description="processes for searches and jobs; as many as cores, at least 2, of which jobs leave one to "
        "callers; with engine ray as many as the cluster has CPUs",
    )
    worker_memory: Annotated[Size, Field(ge=LEAST_MEMORY)] | None = Field(
        default=None, description="memory that one worker may take; if absent, its share of half its machine's"
    )
    solver_threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default_factory=cores, description="threads that one solve may ask for; as many as cores"
    )
    longest_solve: Seconds = Field(
        default=3600.0,
        description="seconds that a call may take to be solved, whatever it asks for; jobs have no such limit",
    )
    patience: Annotated[float, Field(ge=0, le=60)] = Field(
        default=0.01,
        description="seconds to wait for a thread, or half as long as a request takes; beyond that it is refused",
    )
    cache: Annotated[int, BeforeValidator(_sized), Field(ge=0)] = Field(
        default=256 * 2**20,
        description="memory, for each tenant, of answers that are given again to identical requests; 0 for none",
    )

    largest_message: Annotated[Size, Field(ge=2**16, lt=2**31)] = Field(
        default=64 * 2**20, description="size of one request or answer"
    )
    largest_json: Annotated[Size, Field(ge=2**10, lt=2**31)] = Field(
        default=Limits.json_bytes, description="size of the JSON document in a request, whose arrays travel beside it"
    )
    largest_numbers: PositiveInt = Field(default=Limits.numbers, description="numbers in the arrays of one spec")
    most_sessions: PositiveInt = Field(default=1000, description="sessions open at once, of all tenants together")
    session_memory: Size = Field(default=2**30, description="memory for the arrays of open sessions, all together")
    session_idle: Seconds = Field(default=600.0, description="seconds without a step after which a session is closed")
    drain: Annotated[float, Field(ge=0, le=86400)] = Field(
        default=30.0, description="seconds that calls in flight get to finish when the server is asked to stop"
    )

    metrics: str | None = Field(
        default=None, description="where Prometheus reads metrics, HOST:PORT; nowhere if absent"
    )
    otlp: str | None = Field(
        default=None,
        description="OpenTelemetry collector, http://HOST:PORT or https://…, that gets traces; none if absent",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least that is logged"
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="lines for people, or one JSON document each"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file: in this order."""
        file = init_settings().get("config") or env_settings().get("config")
        return init_settings, env_settings, *([TomlConfigSettingsSource(settings_cls, file)] if file else [])

    @field_validator("listen", "insecure")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        return _listed(value)

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, value: str | None) -> str | None:
        if value is not None and address(value).path:
            raise ValueError(f"must be HOST:PORT, got {shown(value)}")
        return value

    @field_validator("otlp")
    @classmethod
    def _otlp(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f"must begin with http:// (without TLS) or https://, got {shown(value)}")
        return value

    @field_validator("store")
    @classmethod
    def _store(cls, value: str | None) -> str | None:
        if value is not None and value.partition("://")[0] not in ("sqlite", "postgresql", "postgresql+psycopg"):
            scheme = value.partition("://")[0] if "://" in value else value  # the rest may hold a password
            raise ValueError(f"must begin with postgresql:// or sqlite:///, got {shown(scheme)}")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both or neither")
        if self.ray_address is not None and self.engine != "ray":
            raise ValueError("ray_address goes with a cluster: set engine = ray too")
        if self.client_ca is not None and self.tls_cert is None:
            raise ValueError("client_ca takes effect with TLS alone: set tls_cert and tls_key too")
        fixed = [text for text in self.listen if address(text).path or address(text).port]
        if twice := {text for text in fixed if fixed.count(text) > 1}:
            raise ValueError(f"listen names {min(twice)} twice")
        if strange := [text for text in self.insecure if text not in self.listen]:
            raise ValueError(f"insecure names {strange[0]}, which listen does not: repeat an address exactly")
        for text in self.listen:
            if not address(text).local and text not in self.insecure:
                self._closed(text)
        return self

    def _closed(self, text: str) -> None:
        """Raises `ValueError` for an address that strangers could use or overhear."""
        if self.tls_cert is None:
            lack, remedy = "without TLS", "set tls_cert and tls_key"
        elif self.tenants is None and self.client_ca is None:
            lack, remedy = "to anybody: there are neither tokens nor client certificates", "set tenants or client_ca"
        else:
            return
        raise ValueError(
            f"listen: {text} would be open to the network {lack}; {remedy}, listen on 127.0.0.1 or a unix socket, or "
            f"say that it is meant by repeating the address: insecure = {text}"
        )

    @property
    def store_url(self) -> str:
        """Where jobs are kept, as SQLAlchemy reads it."""
        if self.store is None:
            return f"sqlite:///{(self.data / 'equipoise.sqlite').absolute()}"
        if self.store.startswith("postgresql://"):
            return "postgresql+psycopg" + self.store.removeprefix("postgresql")
        return self.store

    @property
    def limits(self) -> Limits:
        """What one document of a request may hold."""
        return Limits(json_bytes=self.largest_json, numbers=self.largest_numbers)


def read_settings(**flags: Any) -> ServerSettings:
    """The settings of a server, from everywhere. Flags that are None were not given.

    Raises `SpecError`, which says of each bad value where it came from.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    file = given.get("config") or os.environ.get(f"{PREFIX}CONFIG") or None
    lines = _lines(Path(file)) if file else {}
    try:
        return ServerSettings(**given)
    except ValidationError as error:
        problems = []
        for entry in error.errors():
            name = str(entry["loc"][0]) if entry["loc"] else ""
            message = entry["msg"].removeprefix("Value error, ")
            if entry["type"] == "extra_forbidden":
                message = f"there is no such setting{_closest(name)}"
            elif name and name != "store" and entry["type"] != "value_error":
                message = f"{message[0].lower()}{message[1:]}, got {shown(entry['input'])}"
            if name in given:
                problems.append(Problem(f"--{name.replace('_', '-')}: {message}"))
            elif f"{PREFIX}{name.upper()}" in os.environ:
                problems.append(Problem(f"{PREFIX}{name.upper()}: {message}"))
            else:
                problems.append(Problem(message, (name,) if name else (), str(file) if name in lines else None))
        raise SpecError(problems) from None


def _lines(file: Path) -> dict[str, Any]:
    """What stands in a file. Raises `SpecError`: a file that was asked for and is not there is no default."""
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror}", file=str(file))]) from None
    except ValueError as error:
        raise SpecError([Problem(f"is not valid TOML: {error}", file=str(file))]) from None


def _closest(name: str) -> str:
    found = get_close_matches(name, ServerSettings.model_fields, 1)
    return f"; did you mean {found[0]}?" if found else ""


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that look like settings but are none, with what they may have meant.

    Not an error: an orchestrator names variables after its services, `EQUIPOISE_PORT` for instance.
    """
    known = {f"{PREFIX}{name.upper()}" for name in ServerSettings.model_fields} | _OTHERS
    return [
        f"{name} is not a setting{_closest(name.removeprefix(PREFIX).lower())}"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known and not name.startswith("EQUIPOISE_TEST_")
    ]
