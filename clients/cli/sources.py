"""The files that a command is given: specs, standard input among them, and saved plans."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...specs.errors import SpecError
from ...specs.reading import LARGEST_DOCUMENT, Document, load, parse, read_text
from ...specs.saving import Bundle, is_bundle, load_bundle
from ...specs.spec import Plan, Spec

STDIN = "-"


def shown(file: str) -> str:
    """The name of a file in messages."""
    return "<stdin>" if file == STDIN else file


def read_spec(file: str) -> Spec[Any]:
    """The spec in a file, or on standard input for `-`. Raises `SpecError`."""
    if file == STDIN:
        return parse(_read_stdin(), shown(file), Path.cwd())
    try:
        return load(file)
    except SpecError:
        if _is_plan(file):
            raise SpecError(f"{file}: is a saved plan, not a spec; `check` and `show` read plans") from None
        raise


def read_bundle(file: str) -> Bundle:
    """The saved plan in a file, with its spec if that is there. Raises `SpecError`."""
    return load_bundle(file)


def pair(first: str, second: str | None) -> tuple[Spec[Any], Plan, str]:
    """A spec, a plan for it, and the file that the plan came from: from two files, or from one that holds both.

    Raises `SpecError`.
    """
    if second is not None:
        return read_spec(first), read_bundle(second).plan, second
    try:
        bundle = read_bundle(first)
    except SpecError:
        if _names_a_kind(first):
            raise SpecError(f"{first}: is a spec; name its plan too, as in `equipoise check {first} PLAN`") from None
        raise
    if bundle.spec is None:
        raise SpecError(f"{first}: was saved without its spec; name both, as in `equipoise check SPEC {first}`")
    return bundle.spec, bundle.plan, first


def _read_stdin() -> str:
    if sys.stdin.isatty():
        print("reading a spec from the terminal; end it with Ctrl-D", file=sys.stderr)
    data = sys.stdin.buffer.read(LARGEST_DOCUMENT + 1)
    if len(data) > LARGEST_DOCUMENT:
        raise SpecError(f"{shown(STDIN)}: is larger than {LARGEST_DOCUMENT >> 20} MiB; keep arrays in files")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{shown(STDIN)}: is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _is_plan(file: str) -> bool:
    return Path(file).suffix == ".safetensors" or is_bundle(_document(file))


def _names_a_kind(file: str) -> bool:
    document = _document(file)
    return isinstance(document, Mapping) and "kind" in document


def _document(file: str) -> Any:
    """What a file holds, None where it cannot be read: for a second look at one that was not what it should be."""
    try:
        return Document(read_text(Path(file)), file).value
    except SpecError:
        return None
