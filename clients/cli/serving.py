"""What `equipoise serve` and `equipoise token` do.

The flags of `serve` are made from the settings of the server, so that there is one place which says what can be set.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from ...specs.errors import SpecError, UnsupportedError, shown
from .terminal import answering, results

try:
    from ...server import logs
    from ...server.settings import ServerSettings, address, read_settings, unknown_variables
    from ...server.tenants import NAME, new_token
except ModuleNotFoundError as error:
    raise UnsupportedError(f"the service needs {error.name}: pip install 'equipoise[server]'") from None

_PANELS = {
    "config": "Settings",
    "listen": "Where callers come in, and who they are",
    "data": "Jobs",
    "threads": "Work",
    "largest_message": "Limits",
    "metrics": "What the server tells of itself",
}
"""Groups of flags, each by its first setting."""

EPILOG = """Each setting can also stand in the environment, as EQUIPOISE_LISTEN, or in the
file that --config names; a flag counts first, then the environment.

Examples:
$ equipoise serve
$ equipoise serve --listen unix:/run/equipoise.sock --data /var/lib/equipoise
$ equipoise serve --listen 0.0.0.0:50551 --tls-cert cert.pem --tls-key key.pem --tenants tenants.toml"""


def serve_with(flags: Sequence[str]) -> None:
    """Run a server until it is told to stop. Ends with `SystemExit`, as a command does."""
    command = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    command.command(epilog=EPILOG)(_command())
    command(list(flags), prog_name="equipoise serve")


def _command() -> Callable[..., None]:
    """`_serve` with a flag for each setting."""
    flags, panel = list[inspect.Parameter](), ""
    for name, field in ServerSettings.model_fields.items():
        panel = _PANELS.get(name, panel)
        several = get_origin(field.annotation) is list
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            help=_help(name, field),
            metavar=_metavar(name, field),
            rich_help_panel=panel,
        )
        kind = Annotated[(list[str] if several else str) | None, option]
        flags.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind))
    command = answering(_serve)
    command.__signature__ = inspect.Signature(flags)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {}
    return command


def _help(name: str, field: FieldInfo) -> str:
    text, default = field.description or "", default_shown(name, field)
    return f"{text[:1].upper()}{text[1:]}." + (f" Default: {default}." if default else "")


def _metavar(name: str, field: FieldInfo) -> str:
    found = field.annotation
    if get_origin(found) is Literal:
        return "|".join(get_args(found))
    if name in ("listen", "insecure", "metrics", "ray_address"):
        return "ADDRESS"
    if name in ("store", "otlp"):
        return "URL"
    if Path in (found, *get_args(found)):
        return "PATH"
    if float in (found, *get_args(found)):
        return "SECONDS"
    return "SIZE" if name in _SIZES else "N"


_SIZES = ("worker_memory", "cache", "largest_message", "largest_json", "session_memory")


def default_shown(name: str, field: FieldInfo) -> str:
    """The default of a setting as people write it, empty for none."""
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, list):
        return ", ".join(value)
    if value is None:
        return ""
    if name in _SIZES:
        return f"{value / 2**20:g} MiB"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _serve(**flags: Any) -> int:
    """Run the service: solves, sessions and jobs behind gRPC.

    Without flags it listens on 127.0.0.1:50551, keeps its jobs in SQLite, and
    needs nothing else. Ctrl-C or SIGTERM lets what is in flight finish; at the
    second one it quits at once.
    """
    settings = read_settings(**{name: value for name, value in flags.items() if value not in (None, [])})
    writer = logs.configure(settings.log_level, settings.log_format)
    try:
        _warn(settings)
        from ...server.app import serve

        left = asyncio.run(serve(settings, _ready))
    finally:
        writer.close()
    if left:
        os._exit(0)
    return 0


def _ready(addresses: Sequence[str]) -> None:
    print(f"ready on {', '.join(addresses)}", flush=True)


def _warn(settings: ServerSettings) -> None:
    import structlog

    log = structlog.get_logger()
    for text in unknown_variables():
        log.warning("unknown_variable", problem=text)
    for text in settings.insecure:
        if not address(text).local:
            tls = "no TLS" if settings.tls_cert is None else "TLS"
            known = settings.tenants is not None or settings.client_ca is not None
            log.warning("open_to_the_network", address=text, transport=tls, callers="known" if known else "anybody")


def make_token(tenant: str, as_json: bool) -> None:
    """Print a new token, and the line by which a server knows it. Raises `SpecError` for an impossible name."""
    if not NAME.fullmatch(tenant):
        wanted = "up to 64 letters, digits and . _ -, the first a letter or digit"
        raise SpecError(f"a tenant's name takes {wanted}, got {shown(tenant)}")
    token, digest = new_token()
    if as_json:
        print(json.dumps({"tenant": tenant, "token": token, "sha256": digest}))
        return
    name = f'"{tenant}"' if "." in tenant else tenant
    console = results()
    console.print(f"token, shown this once, for {tenant} to keep:\n\n    {token}\n", soft_wrap=True)
    console.print("for the file of tenants, which holds digests only; tokens of one tenant are separated by commas:\n")
    console.print(f'    [{name}]\n    tokens = ["{digest}"]', soft_wrap=True)
