"""What tests of the command line share: specs to give it, ways to run it, and what it prints, read strictly."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from typer.testing import CliRunner, Result

from equipoise.clients.cli.app import app

COMMAND = [sys.executable, "-m", "equipoise"]

GOOD = "kind: rollout_budgets\nname: small\nprompts: {successes: [0, 4, 8], trials: [8, 8, 8]}\ntotal: 24\n"
BAD = "kind: rollout_budgets\nprompts:\n  successes: [0, -4]\n  trials: [8, 8]\ntotal: 24\nleats: 1\n"
NOTHING = {"kind": "rollout_budgets", "prompts": {"successes": [], "trials": []}, "total": 0}
INFEASIBLE = "kind: rollout_budgets\nprompts: {successes: [0, 4], trials: [8, 8]}\ntotal: 1\n"


def run(*arguments: str, given: str | bytes | None = None, width: int = 100) -> Result:
    return CliRunner().invoke(app, list(arguments), input=given, env={"COLUMNS": str(width)})


def strict(text: str) -> Any:
    """A JSON document, refused if it holds what JSON does not have."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def start(arguments: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """The command with a terminal of its own as standard error, and the end of it that a person would see."""
    seen, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=terminal, env=environment)
    os.close(terminal)
    return process, seen


def read_until(seen: int, words: bytes | None) -> bytes:
    """What the terminal shows up to some words, or to the end."""
    shown = b""
    while words is None or words not in shown:
        try:
            part = os.read(seen, 4096)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            assert words is None, f"{words!r} never came: {shown!r}"
            break
        shown += part
    return shown


def raising(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: Any) -> NoReturn:
        raise error

    return fail
