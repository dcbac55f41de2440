"""What went wrong, as people and programs are told: in lines, as a document, and as an exit code."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..specs.errors import EquipoiseError, InfeasibleError, Problem, SolveTimeout, SpecError

CHECK_FAILED = 1
BACKEND_FAILED = 5
INTERRUPTED = 130
BROKEN_PIPE = 141
"""As of a program that the signal of a broken pipe ends: what was to be told was not."""

_BUG = "this is a bug in Equipoise; for the traceback run it again as `equipoise --debug …` or with EQUIPOISE_DEBUG=1"


@dataclass(frozen=True)
class Failure:
    """An error, ready to be told.

    type: name of the exception's class, or `Interrupted`. problems: one per thing wrong with a spec.
    details: whatever else a program may want to know, as JSON carries it. trace: where a bug struck.
    """

    type: str
    message: str
    code: int
    problems: tuple[Problem, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    trace: str = ""

    def lines(self, file: str | None = None) -> Iterator[str]:
        """A line per problem, each with its file. `file` is the one where the failure does not say."""
        where = f"{file}: " if file else ""
        if self.problems:
            yield from (str(problem) if problem.file else _named(str(problem), file) for problem in self.problems)
        else:
            yield f"{where}{self.message}"

    def document(self) -> dict[str, Any]:
        """As JSON carries it."""
        return {"type": self.type, "message": self.message, **self.details}


def failure_of(error: BaseException, interrupted: bool = False) -> Failure:
    """The failure that an exception means. `interrupted`: the user asked to stop before it was raised."""
    name = type(error).__name__
    match error:
        case SolveTimeout() if interrupted:
            return Failure("Interrupted", "interrupted before any plan was found", INTERRUPTED)
        case KeyboardInterrupt():
            return Failure("Interrupted", "interrupted", INTERRUPTED)
        case SpecError():
            told = [
                {"file": problem.file, "line": problem.line, "field": problem.field or None, "message": problem.message}
                for problem in error.problems
            ]
            return Failure(name, str(error), error.exit_code, error.problems, {"problems": told})
        case InfeasibleError():
            details = {"fields": list(error.fields), "change": error.change}
            return Failure(name, f"infeasible: {error}", error.exit_code, details=details)
        case EquipoiseError():
            return Failure(name, str(error), error.exit_code)
        case OSError():
            return Failure(name, str(error), BACKEND_FAILED)
        case _:
            trace = "".join(traceback.format_exception(error))
            return Failure(name, f"{name}: {error} ({_BUG})", BACKEND_FAILED, trace=trace)


def not_started() -> Failure:
    """The failure of a spec whose turn never came."""
    return Failure("Interrupted", "not solved: interrupted before its turn", INTERRUPTED)


def _named(line: str, file: str | None) -> str:
    return line if file is None or line.startswith(f"{file}:") else f"{file}: {line}"
