"""`equipoise export`: the compiled program in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from .console import run


@pytest.mark.parametrize("suffix", ["mps", "lp", "nl"])
@pytest.mark.usefixtures("folder")
def test_export_writes_the_program(suffix: str) -> None:
    result = run("export", "good.yaml", "--to", f"model.{suffix}")
    assert result.exit_code == 0
    assert f"wrote model.{suffix}" in result.stdout
    assert Path(f"model.{suffix}").stat().st_size > 100


@pytest.mark.usefixtures("folder")
def test_export_refuses_what_it_cannot_write() -> None:
    assert run("export", "good.yaml", "--to", "model.txt").exit_code == 2
    assert run("export", "bad.yaml", "--to", "model.mps").exit_code == 2
    assert run("export", "good.yaml").exit_code == 2
