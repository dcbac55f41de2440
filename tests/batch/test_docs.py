"""What the page on batches shows is what happens: its files are written, its commands run, their output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "batch.md"
BLOCK = re.compile(r"^```(?P<language>\w+)(?: (?P<file>\S+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
TIME = re.compile(r"\d[\d.,]* ?(?:ms|µs|min|s|h)\b")
PACE = re.compile(r", [\d,]+ per second\b")
"""Which is told where it is ten or more: on some machines."""


@dataclass(frozen=True)
class Shown:
    """A command of the page, and what the page says that it prints."""

    command: str
    output: str


def shown(text: str) -> Iterator[Shown]:
    """The commands of a block: each begins with `$ `, and what it prints follows."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield Shown(command, output)


def alike(page: str, real: str) -> bool:
    """Whether an output is as the page has it: `…` stands for anything, a time for any other, a space for any number
    of spaces and line feeds."""
    parts = [re.escape(_plain(part)) for part in page.split("…")]
    return re.fullmatch(" ?.* ?".join(parts), _plain(real)) is not None


def _plain(text: str) -> str:
    return " ".join(TIME.sub("TIME", PACE.sub("", text)).split())


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """A user's, with this very Equipoise on the path, and a terminal wide enough for the page."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("EQUIPOISE_", "RAY_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return ours | {"PATH": path, "COLUMNS": "100", "PYTHONSAFEPATH": "1", "NO_COLOR": "1"}


def test_every_command_prints_what_the_page_says(tmp_path: Path, environment: dict[str, str]) -> None:
    commands = 0
    for block in BLOCK.finditer(PAGE.read_text()):
        if block["file"] is not None:
            (tmp_path / block["file"]).write_text(block["text"])
        elif block["language"] == "console":
            for each in shown(block["text"]):
                run = ["bash", "-c", each.command]
                real = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
                assert alike(each.output, real.stdout), f"{each.command}\n{real.stdout}{real.stderr}"
                assert "error" not in real.stderr, f"{each.command}\n{real.stderr}"
                commands += 1
    assert commands >= 8, "the page has lost its commands"
    assert (tmp_path / "plots" / "sweep.png").stat().st_size > 10_000


def test_the_python_of_the_page_runs(tmp_path: Path, environment: dict[str, str]) -> None:
    blocks = [block["text"] for block in BLOCK.finditer(PAGE.read_text()) if block["language"] == "python"]
    assert blocks
    for code in blocks:
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0 and run.stdout.count("\n") == 3, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("page", "real", "same"),
    [
        ("4 specs; 3.1 s with 2", "4 specs; 12 ms with 2\n", True),
        ("4 specs; 3.1 s with 2", "3 specs; 3.1 s with 2", False),
        ("4 specs; 3.1 s with 2", "4 specs; 0.1 s with 2, 40 per second", True),
        ('{"plan": {…}, "gap": 0.0}', '{"plan": {"rollouts": [1]}, "gap": 0.0}', True),
        ('{"plan": {…}, "gap": 0.0}', '{"plan": {"rollouts": [1]}, "gap": 0.5}', False),
        ("a table", "a   table\n", True),
        ("a table", "a table of more", False),
    ],
)
def test_a_page_is_held_to_all_but_times_and_spaces(page: str, real: str, same: bool) -> None:
    assert alike(page, real) == same
