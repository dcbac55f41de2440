"""Writing the compiled program of a spec to a file, for any other solver to read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ..specs.errors import SpecError, UnsupportedError
from ..specs.spec import Spec
from .backends.highs import HighsBackend
from .control import Control, Options
from .formulation import formulation
from .program import Program

FORMATS = {".lp": "cpxlp", ".mps": "mps", ".nl": "nl"}


def compiled(spec: Spec[Any]) -> Program:
    """The program of a spec, ready for one solve: goals that come before its objective are settled here.

    Raises `InfeasibleError` where a goal shows that the spec has no plan.
    """
    program = formulation(spec).formulate()
    for goal in program.goals:
        best = HighsBackend().solve(program.aimed(goal.sense, goal.cost), Options("exact"), Control())
        program = program.settled(goal, best.objective)
    return program


def export(spec: Spec[Any], path: Path) -> None:
    """Write the program of a spec as .lp, .mps or .nl, with the spec's names. The file is replaced whole.

    Raises `UnsupportedError` for another suffix.
    """
    if path.suffix not in FORMATS:
        wanted = ", ".join(FORMATS)
        raise UnsupportedError(f"{path}: cannot export to {path.suffix or 'a file without suffix'}; use {wanted}")
    from .backends.pyomo import pyomo_model

    model = pyomo_model(compiled(spec))
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            written = Path(folder) / path.name
            model.write(str(written), format=FORMATS[path.suffix], io_options={"symbolic_solver_labels": True})
            os.replace(written, path)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from None
