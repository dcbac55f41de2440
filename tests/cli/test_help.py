"""Help, versions and completion, which load no solver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import equipoise as eq

from .console import run


def test_version_and_help() -> None:
    assert run("--version").stdout == f"equipoise {eq.__version__}\n"
    for command in ([], ["solve"], ["check"], ["show"], ["schema"], ["example"], ["export"]):
        result = run(*command, "--help")
        assert result.exit_code == 0
        assert "$ equipoise" in result.stdout


def test_help_loads_no_solver() -> None:
    code = (
        "import sys\n"
        "from equipoise.clients.cli.app import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True).stderr
    assert not {"numpy", "highspy", "ortools", "pyomo", "torch"} & set(loaded.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_there(shell: str) -> None:
    environment = {**os.environ, "_EQUIPOISE_COMPLETE": f"source_{shell}"}
    program = Path(sys.executable).with_name("equipoise")
    done = subprocess.run([program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert "_EQUIPOISE_COMPLETE" in done.stdout


def test_kinds_are_completed() -> None:
    environment = {
        **os.environ,
        "_EQUIPOISE_COMPLETE": "complete_bash",
        "COMP_WORDS": "equipoise example roll",
        "COMP_CWORD": "2",
    }
    program = Path(sys.executable).with_name("equipoise")
    done = subprocess.run([program], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["rollout_budgets"]
