"""What importing costs, and what the front door shows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import equipoise as eq

ROOT = Path(eq.__file__).parent
HEAVY = ("torch", "pyomo", "numba", "pandas", "grpc", "highspy", "ortools", "rich", "typer")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return done.stdout


def test_importing_loads_nothing_heavy() -> None:
    loaded = run("import equipoise, sys; print(*sys.modules)").split()
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)


def test_loading_a_spec_loads_no_solver() -> None:
    code = "import equipoise, sys; equipoise.RolloutBudgets; equipoise.load; print(*sys.modules)"
    assert not {name.partition(".")[0] for name in run(code).split()} & {
        "highspy",
        "ortools",
        "pyomo",
        "torch",
        "pandas",
    }


def test_every_name_at_the_front_door_is_there() -> None:
    for name in dir(eq):
        assert getattr(eq, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        eq.no_such_name  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


def test_type_checkers_see_the_names_that_are_there() -> None:
    """The front door's names for type checkers are written by hand; they are the ones found at run time."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    names = {alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(dir(eq)) - {"__version__"}


FOLDERS = {
    "specs": set(),
    "solvers": {"specs"},
    "kernels": set(),
    "clients": {"specs", "solvers", "server", "kernels", "clients"},
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    """`specs` imports nothing of ours, `solvers` only `specs`; inside the package imports are relative."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                above = [ROOT.name, *path.relative_to(ROOT).parts[:-1]]
                target = [*above[: len(above) - node.level + 1], *(node.module or "").split(".")]
                assert len(target) < 2 or target[1] in FOLDERS[folder] | {folder}, f"{path}:{node.lineno}"
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.partition(".")[0] == "equipoise" for name in names), f"{path}: {names}"


def test_the_judges_use_no_solver() -> None:
    """`check` and what it calls come from the specs alone, and no solver calls the specs' own judgement."""
    judging = ("rules", "demands", "reports", "objective", "bound")
    source = (ROOT / "solvers" / "check.py").read_text()
    modules = {
        node.module or "" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.level
    }
    assert all(module.startswith("specs.") for module in modules)
    for path in [*(ROOT / "solvers" / "formulations").glob("*.py"), *(ROOT / "solvers" / "algorithms").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                judged = ast.unparse(node.func.value).endswith("spec")
                assert not (judged and node.func.attr in judging), f"{path}:{node.lineno}"
