"""Machine code: one signature per function, kept on disk, nothing compiled inside a call."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers import machine
from equipoise.solvers.machine import compiled, integers, out_reals, real, reals

ROOT = Path(eq.__file__).parent


@compiled(real(reals, integers, out_reals))
def weigh(amounts: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> float:
    total = 0.0
    for row in range(len(amounts)):
        total += amounts[row] / counts[row]
        sums[row] = total
    return total


def test_read_only_arrays_and_others_run_the_same_code() -> None:
    amounts, counts = np.array([1.0, 2.0]), np.array([1, 4])
    frozen = amounts.copy()
    frozen.flags.writeable = False
    for given in (amounts, frozen):
        assert weigh(given, counts, np.zeros(2)) == 1.5
    assert len(weigh.signatures) == 1  # pyright: ignore[reportFunctionMemberAccess]


def test_division_by_zero_follows_ieee() -> None:
    assert weigh(np.array([1.0]), np.array([0]), np.zeros(1)) == np.inf


def test_an_array_of_another_type_is_refused_and_not_compiled_for() -> None:
    with pytest.raises(TypeError, match="No matching definition"):
        weigh(np.array([1.0], np.float32), np.array([1]), np.zeros(1))


def test_what_was_made_is_listed() -> None:
    entry = next(entry for entry in machine.made if entry.name == f"{__name__}.weigh")
    assert entry.kept and entry.seconds > 0


MODULE = """
from equipoise.solvers.machine import compiled, made, real
@compiled(real(real))
def twice(x):
    return 2 * x
print(made[0].found, twice(4.0))
"""


def test_a_second_process_finds_the_code_on_disk(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(MODULE)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    told = [
        subprocess.run(
            [sys.executable, str(tmp_path / "one.py")], capture_output=True, text=True, check=True, env=environment
        ).stdout.strip()
        for _ in range(2)
    ]
    assert told == ["False 8.0", "True 8.0"]


PACKAGE = {
    "one.py": "from .two import thrice\nfrom equipoise.solvers.machine import compiled, real\n"
    "@compiled(real(real))\ndef call(x):\n    return thrice(x) + 1\n",
    "two.py": "from equipoise.solvers.machine import compiled, real\n"
    "@compiled(real(real))\ndef thrice(x):\n    return 3 * x\n",
    "__init__.py": "",
}


def test_a_change_in_a_called_module_is_seen(tmp_path: Path) -> None:
    """Numba itself sees a change only in the file of the function that is called first."""
    package = tmp_path / "pack"
    package.mkdir()
    for name, source in PACKAGE.items():
        (package / name).write_text(source)
    code = "from pack.one import call; from equipoise.solvers.machine import made; print(made[-1].found, call(2.0))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def told() -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    assert [told(), told()] == ["False 7.0", "True 7.0"]
    (package / "two.py").write_text(PACKAGE["two.py"].replace("3 * x", "5 * x"))
    assert told() == "False 11.0"
    assert len(list((package / "__pycache__").glob("one-*"))) == 1


def test_where_nothing_can_be_kept_the_code_still_runs(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(MODULE.replace("made[0].found", "made[0].kept"))
    (tmp_path / "file").write_text("")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache")}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "one.py")], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "False 8.0"


def test_compiled_functions_call_none_of_another_folder() -> None:
    """The code on disk goes by the sources of a function's own folder."""
    for path in (ROOT / "solvers").rglob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            and node.level > 1
            and (node.module or "").rpartition(".")[2] != "machine"
            for alias in node.names
        }
        for function in [node for node in tree.body if isinstance(node, ast.FunctionDef)]:
            if any(ast.unparse(mark).startswith("compiled(") for mark in function.decorator_list):
                called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
                assert not called & imported, f"{path}:{function.lineno}: {called & imported}"
