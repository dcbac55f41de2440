"""The wheel holds what the repository holds, and works where there is nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import equipoise as eq

ROOT = Path(eq.__file__).parent
FOLDERS = ("specs", "solvers", "clients", "server", "kernels")


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built through the source distribution, from a copy of what git tracks."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source, folder=folder)
    return next((folder / "dist").glob("*.whl"))


def tracked() -> list[str]:
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder=ROOT).splitlines()
    return [name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]


def test_the_wheel_holds_exactly_the_package(wheel: Path) -> None:
    packed = {
        name.removeprefix("equipoise/") for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name
    }
    wanted = {
        name
        for name in tracked()
        if name.partition("/")[0] in FOLDERS or name in ("__init__.py", "__main__.py", "py.typed")
    }
    assert packed == wanted


def test_a_solve_from_the_wheel_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "empty", folder=tmp_path)
    binaries = tmp_path / "empty" / "bin"
    run(binaries / "python", "-m", "pip", "install", "--quiet", wheel, folder=tmp_path)
    (tmp_path / "spec.yaml").write_text(run(binaries / "equipoise", "example", "rollout_budgets", folder=tmp_path))
    result = json.loads(run(binaries / "equipoise", "solve", "--json", "spec.yaml", folder=tmp_path))
    assert result["plan"]["kind"] == "rollout_budgets"
    installed = run(binaries / "python", "-m", "pip", "list", "--format=freeze", folder=tmp_path)
    assert "torch" not in installed
