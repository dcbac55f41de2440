"""From a spec to a plan with a certificate: compile, solve, interpret, judge.

The answer is held against the spec's own rules before it leaves; a solver's word is not enough.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.metadata import version
from platform import python_version
from typing import Any, TypeVar

import numpy as np

from ..specs.certificate import OPTIMAL_GAP, SEARCH_TOLERANCE, Certificate, Status, Stopped
from ..specs.errors import BackendError, InfeasibleError, SpecError, UnsupportedError
from ..specs.spec import Plan, Spec
from .answer import Answer, Backend, ProgramInfeasible
from .backends import backend_for
from .conflicts import find_conflict
from .control import Control, Method, Options, Watcher
from .formulation import Evidence, Formulation, formulation
from .program import Program

P = TypeVar("P", bound=Plan)


def solve(
    spec: Spec[P],
    method: Method = "auto",
    backend: str | None = None,
    time_limit: float | None = None,
    gap: float | None = None,
    seed: int = 0,
    threads: int = 1,
    watch: Watcher | None = None,
) -> P:
    """The best plan for a spec, with a certificate of how good it is.

    method: `exact` asks for a gap of 0; `auto` for the gap that suits the kind (0 where that is cheap, 1e-3
        where it takes a search).
    backend: `highs`, `flow` or `pyomo:SOLVER`; None chooses by the program.
    time_limit: seconds; with a plan in hand when they are over, the answer is that plan and its gap.
    gap: relative gap at which to stop, instead of the method's own.
    watch: called with a `Progress` while a backend runs; returning False stops with the best plan so far.

    Raises `InfeasibleError`, `SolveTimeout` (no plan in time), `UnsupportedError` and `BackendError`.
    """
    return Solver(Options(method, backend, time_limit, gap, seed, threads)).solve(spec, watch)


class Solver:
    """Answers one spec after the other under the same options, and keeps its backends warm in between."""

    def __init__(self, options: Options) -> None:
        if options.method == "fast":
            raise UnsupportedError("method 'fast' is not available yet; use 'auto' or 'exact'")
        self.options = options
        self._backends: dict[str, Backend] = {}

    def solve(self, spec: Spec[P], watch: Watcher | None = None) -> P:
        """The best plan for a spec. Raises as `solve` does."""
        if not isinstance(spec, Spec):
            raise SpecError(f"solve takes a spec, got {type(spec).__name__}; `load` reads one from a file")
        control = Control(self.options.time_limit, watch)
        form = formulation(spec)
        program = form.formulate()
        backend = backend_for(program, self.options.backend, self._backends)
        try:
            answer = self._settle(program, backend, control)
        except ProgramInfeasible:
            raise _infeasible(form, program, self.options) from None
        plan = form.interpret(answer)
        return self._certified(spec, plan, form.prove(plan, answer), answer, control)

    def _settle(self, program: Program, backend: Backend, control: Control) -> Answer:
        """The answer to a program, its goals settled one after the other first."""
        answers: list[Answer] = []
        strict = replace(self.options, method="exact", gap=None)  # a gap that is asked for is one of the objective
        for goal in program.goals:
            control.enter(goal.name)
            aimed = program.aimed(goal.sense, goal.cost)
            answers.append(backend.solve(aimed, strict, control))
            program = replace(program.settled(goal, answers[-1].objective), start=answers[-1].values)
        control.enter("")
        return replace(backend.solve(replace(program, goals=()), self.options, control), goals=tuple(answers))

    def _certified(self, spec: Spec[P], plan: P, evidence: Evidence, answer: Answer, control: Control) -> P:
        broken = list(spec.rules(plan))
        if broken:
            raise BackendError(f"{answer.backend} gave an answer that breaks the spec: {broken[0]}")
        gap = spec.gap(plan, evidence.objective, evidence.bound)
        parts = (*answer.goals, answer)
        unfinished: list[Stopped] = [part.stopped for part in parts if part.stopped != "solved"]
        stopped: Stopped = unfinished[0] if unfinished else "solved"
        asked = self.options.asked_gap(answer.program.gap)
        searched = stopped == "solved" and gap <= (SEARCH_TOLERANCE if asked == 0 else OPTIMAL_GAP)
        proven = searched if evidence.proof == "search" else gap <= OPTIMAL_GAP
        status: Status = "optimal" if proven else "feasible"
        return plan.with_certificate(
            Certificate(
                status=status,
                sense=spec.sense,
                objective=evidence.objective,
                bound=evidence.bound,
                gap=gap,
                violation=0.0,
                proof=evidence.proof,
                method=f"{self.options.method}: {answer.backend}",
                seconds=control.seconds,
                stopped=stopped,
                backend=answer.backend,
                seed=self.options.seed,
                threads=self.options.threads,
                time_limit=self.options.time_limit,
                gap_asked=asked,
                versions=_versions(),
                notes=tuple(dict.fromkeys([*(note for part in parts for note in part.notes), *evidence.notes])),
            )
        )


@cache
def _versions() -> dict[str, str]:
    """What a replay needs beside the backend, whose version is in its name. Read from disk once."""
    return {"equipoise": version("equipoise"), "numpy": np.__version__, "python": python_version()}


def _infeasible(form: Formulation[Any, Any], program: Program, options: Options) -> InfeasibleError:
    conflict = form.conflict() or find_conflict(program, options.time_limit)
    explanation = form.explain(conflict)
    return InfeasibleError(explanation.message, conflict.fields, explanation.change)
