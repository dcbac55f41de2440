"""Triton's kernels: right by Triton's interpreter, and compiled for a GPU that need not be there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from equipoise.kernels import choice

HERE = Path(__file__).parent
SECONDS = 300


def python(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, since Triton decides when it is imported whether it interprets."""
    pytest.importorskip("triton")
    settings = {**os.environ, "TRITON_CACHE_DIR": str(folder), "PYTHONSAFEPATH": "1", **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=settings, capture_output=True, text=True, timeout=SECONDS, cwd=HERE.parent.parent
    )


def test_the_interpreter_finds_every_kernel_equal_to_torch(tmp_path: Path) -> None:
    files = [str(HERE / name) for name in ("interpreted.py", "test_routing.py", "test_permutation.py")]
    slow = "not (second_order or same_bits)"  # thousands of launches, of what the other tests launch too
    options = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", slow)
    done = python(*options, *files, folder=tmp_path, TRITON_INTERPRET="1", EQUIPOISE_KERNELS="triton")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_every_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    done = python(str(HERE / "compiled.py"), folder=tmp_path, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is at hand")
def test_a_gpu_finds_every_kernel_equal_to_torch(tmp_path: Path) -> None:
    options = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(HERE / "interpreted.py"))
    done = python(*options, folder=tmp_path, TRITON_INTERPRET="0", EQUIPOISE_TEST_DEVICE="cuda")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_importing_the_operators_does_not_import_triton(tmp_path: Path) -> None:
    text = "import sys, equipoise.kernels.routing, equipoise.kernels.permutation; assert 'triton' not in sys.modules"
    done = python("-c", text, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_torch_runs_on_the_cpu_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.zeros(1)
    for word in ("", "auto", "torch"):
        monkeypatch.setenv(choice.VARIABLE, word)
        assert not choice.uses_triton(tensor)
    monkeypatch.delenv(choice.VARIABLE)
    assert not choice.uses_triton(tensor)


def test_a_choice_that_cannot_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="must be auto, torch or triton, got 'cuda'"):
        choice.uses_triton(torch.zeros(1))
    pytest.importorskip("triton")
    monkeypatch.setenv(choice.VARIABLE, "triton")
    with pytest.raises(ValueError, match="a tensor is on cpu: Triton runs on CUDA devices"):
        choice.uses_triton(torch.zeros(1))


def test_a_triton_that_is_too_old_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    with monkeypatch.context() as patch:
        patch.setattr(triton, "__version__", "3.2.0")
        patch.setenv(choice.VARIABLE, "triton")
        choice._missing.cache_clear()
        with pytest.raises(ValueError, match=r"triton is 3\.2\.0, older than 3\.4"):
            choice.uses_triton(torch.zeros(1))
    choice._missing.cache_clear()
