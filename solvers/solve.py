"""From a spec to a plan with a certificate: the kind's own algorithm first, then the compiled program.

The answer is held against the spec's own demands before it leaves; a solver's word is not enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from platform import python_version
from typing import Any, Generic, TypeVar

import numpy as np

from ..specs.certificate import OPTIMAL_GAP, SEARCH_TOLERANCE, Certificate, Status, Stopped
from ..specs.errors import BackendError, InfeasibleError, SolveTimeout, SpecError, UnsupportedError
from ..specs.spec import Plan, Spec
from .algorithm import Algorithm
from .algorithms import LONG, load
from .answer import Answer, Backend, ProgramInfeasible
from .backends import backend_for, make_backend
from .conflicts import find_conflict
from .control import Control, Method, Options, Watcher
from .formulation import Evidence, Formulation, formulation
from .program import Program

P = TypeVar("P", bound=Plan)

SHORTEST = 0.5
"""Seconds that may go into why there is no plan, whatever the time limit."""


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
        where it takes a search), and leaves a search out for which there is no time; `fast` runs the kind's own
        algorithm alone, at a gap of 1e-3 if it comes so near.
    backend: `highs`, `flow` or `pyomo:SOLVER` solve the compiled program; None tries the kind's own algorithm
        first, and chooses a backend by the program for what that leaves open.
    time_limit: seconds; with a plan in hand when they are over, the answer is that plan and its gap.
    gap: relative gap at which to stop, instead of the method's own.
    watch: called with a `Progress` while a backend runs; returning False stops with the best plan so far.

    Raises `InfeasibleError`, `SolveTimeout` (no plan in time), `UnsupportedError` and `BackendError`.
    """
    return Solver(Options(method, backend, time_limit, gap, seed, threads)).solve(spec, watch)


class SearchNeeded(Exception):
    """The kind's own algorithm alone does not answer a spec, and a search was not wanted."""


class Solver:
    """Answers one spec after the other under the same options, and keeps what helps with the next: an algorithm's
    prices and workspaces, a backend's model."""

    def __init__(self, options: Options) -> None:
        """Raises `UnsupportedError` for a backend that there is not."""
        self.options = options
        name = options.backend
        self._backends: dict[str, Backend] = {} if name is None else {name: make_backend(name)}
        self._algorithms: dict[str, Algorithm[Any, Any]] = {}

    def solve(self, spec: Spec[P], watch: Watcher | None = None, within: float | None = None, search: bool = True) -> P:
        """The best plan for a spec. Raises as `solve` does.

        within: seconds that the caller has left; the time limit of the options holds besides.
        search: without it, raise `SearchNeeded` where the program would have to be compiled, be it to explain why
            there is no plan. What runs then is machine code that releases the interpreter lock.
        """
        if not isinstance(spec, Spec):
            raise SpecError(f"solve takes a spec, got {type(spec).__name__}; `load` reads one from a file")
        algorithm, notes = self._algorithm(spec, watch)
        limits = [limit for limit in (self.options.time_limit, within) if limit is not None]
        control = Control(min(limits, default=None), watch)
        if algorithm is None:
            if not search:
                raise SearchNeeded
            return self._certified(spec, self._searched(spec, None, control), control, notes)
        asked = self.options.asked_gap(algorithm.gap(spec))
        try:
            found = algorithm.solve(spec, asked, self.options.seed, self.options.threads, control)
        except ProgramInfeasible as reason:
            if not search:
                raise SearchNeeded from None
            raise _infeasible(formulation(spec), None, control, reason) from None
        outcome = _Outcome(found.plan, found.evidence, f"equipoise {found.method}", found.stopped, asked, found.settled)
        _held(spec, outcome)
        close = self._gap(spec, outcome) <= max(asked, OPTIMAL_GAP)
        enough = (found.settled and close) or self.options.method == "fast"
        if not enough and found.stopped == "solved":
            seconds = algorithm.search_seconds(spec)
            if self.options.method == "exact" or seconds < control.remaining:
                if not search:
                    raise SearchNeeded
                outcome = self._searched(spec, outcome, control)
            elif seconds < math.inf:
                outcome = replace(outcome, stopped="time limit")
                notes.append(f"the exact program, about {seconds:.2g} s, was left out for want of time")
            else:
                notes.append("the exact program was left out: it is too large, or its costs too far apart")
        return self._certified(spec, outcome, control, notes)

    def warm_up(self, spec: Spec[Any]) -> None:
        """Have the machine code for a spec ready before its first solve."""
        self._algorithm(spec, None)

    def _algorithm(self, spec: Spec[Any], watch: Watcher | None) -> tuple[Algorithm[Any, Any] | None, list[str]]:
        """The algorithm to run, None where a backend is asked for or there is none; and what a user should know."""
        kind, notes = spec.kind, list[str]()
        if self.options.backend is not None:
            return None, notes
        algorithm = self._algorithms.get(kind)
        if algorithm is None and (loaded := load(kind, watch)) is not None:
            algorithm = self._algorithms[kind] = loaded.algorithm()
            if loaded.seconds >= LONG:
                notes.append(f"machine code was compiled before the solve, once, in {loaded.seconds:.2g} s")
        refusal = f"there is no algorithm for the kind {kind!r}" if algorithm is None else algorithm.refuses(spec)
        if refusal is None:
            return algorithm, notes
        if self.options.method == "fast":
            raise UnsupportedError(f"method 'fast' cannot answer this: {refusal}; use 'auto' or 'exact'")
        return None, notes

    def _searched(self, spec: Spec[P], known: _Outcome[P] | None, control: Control) -> _Outcome[P]:
        """What the compiled program gives, or the plan that is known already if that is better."""
        form, program = formulation(spec, control), None
        try:
            if known is not None:
                control.check()
            program = form.formulate()
            backend = backend_for(program, self.options.backend, self._backends)
            outcome = self._found(spec, form, self._settle(program, backend, control))
        except SolveTimeout:
            if known is None:
                raise
            return replace(known, stopped=control.why_stopped())
        except (ProgramInfeasible, BackendError) as error:
            if known is not None:  # a plan that keeps every demand
                note = f"the search gave no answer: {error}"
                return replace(known, evidence=replace(known.evidence, notes=(*known.evidence.notes, note)))
            if isinstance(error, BackendError):
                raise
            raise _infeasible(form, program, control, error) from None
        return outcome if known is None else _better(spec, outcome, known)

    def _found(self, spec: Spec[P], form: Formulation[Any, P], answer: Answer) -> _Outcome[P]:
        """What the answer to a program means, held against the demands."""
        plan = form.interpret(answer)
        evidence = form.prove(plan, answer)
        parts = (*answer.goals, answer)
        unfinished: list[Stopped] = [part.stopped for part in parts if part.stopped != "solved"]
        notes = dict.fromkeys([*(note for part in parts for note in part.notes), *evidence.notes])
        outcome = _Outcome(
            plan,
            replace(evidence, notes=tuple(notes)),
            answer.backend,
            unfinished[0] if unfinished else "solved",
            self.options.asked_gap(answer.program.gap),
        )
        _held(spec, outcome)
        return outcome

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

    def _gap(self, spec: Spec[P], outcome: _Outcome[P]) -> float:
        return spec.gap(outcome.plan, outcome.evidence.objective, outcome.evidence.bound)

    def _certified(self, spec: Spec[P], outcome: _Outcome[P], control: Control, notes: list[str]) -> P:
        evidence = outcome.evidence
        gap = self._gap(spec, outcome)
        searched = outcome.stopped == "solved" and gap <= (SEARCH_TOLERANCE if outcome.asked == 0 else OPTIMAL_GAP)
        proven = outcome.settled and (searched if evidence.proof == "search" else gap <= OPTIMAL_GAP)
        status: Status = "optimal" if proven else "feasible"
        return outcome.plan.signed(
            Certificate(
                status=status,
                sense=spec.sense,
                objective=evidence.objective,
                bound=evidence.bound,
                gap=gap,
                violation=0.0,
                proof=evidence.proof,
                method=f"{self.options.method}: {outcome.backend}",
                seconds=control.seconds,
                stopped=outcome.stopped,
                backend=outcome.backend,
                seed=self.options.seed,
                threads=self.options.threads,
                time_limit=self.options.time_limit if outcome.stopped == "solved" else control.time_limit,
                gap_asked=outcome.asked,
                versions=_versions(),
                notes=(*notes, *evidence.notes),
            )
        )


@dataclass(frozen=True)
class _Outcome(Generic[P]):
    """A plan without certificate, and what its certificate will say."""

    plan: P
    evidence: Evidence
    backend: str
    stopped: Stopped
    asked: float
    settled: bool = True


def _held(spec: Spec[P], outcome: _Outcome[P]) -> None:
    """Hold a plan against the demands of its spec. Raises `BackendError` for one that breaks any."""
    broken = next(iter(spec.demands(outcome.plan)), None)
    if broken is not None:
        raise BackendError(f"{outcome.backend} gave an answer that breaks the spec: {broken}")


def _better(spec: Spec[P], searched: _Outcome[P], known: _Outcome[P]) -> _Outcome[P]:
    """The better plan of two, under the tighter bound."""
    ranks = spec.rank(searched.plan), spec.rank(known.plan)
    if ranks[0] != ranks[1]:  # no bound of the other's says anything about plans of this rank
        best = searched if ranks[0] > ranks[1] else known
        return replace(best, stopped=searched.stopped)
    sign = 1 if spec.sense == "maximise" else -1
    best = searched if sign * searched.evidence.objective >= sign * known.evidence.objective else known
    tight = min((searched, known), key=lambda outcome: sign * outcome.evidence.bound)
    evidence = replace(best.evidence, bound=tight.evidence.bound, proof=tight.evidence.proof)
    backend = " and ".join(dict.fromkeys([best.backend, searched.backend]))
    return replace(searched, plan=best.plan, evidence=evidence, backend=backend)


@cache
def _versions() -> dict[str, str]:
    """What a replay needs beside the backend, whose version is in its name. Read from disk once."""
    return {"equipoise": version("equipoise"), "numpy": np.__version__, "python": python_version()}


def _infeasible(
    form: Formulation[Any, Any], program: Program | None, solving: Control, reason: ProgramInfeasible
) -> InfeasibleError:
    """What clashes, in the words of the spec; the solver's reason where that is not found.

    Under a time limit, looking for it takes about as long again at most.
    """
    limit = solving.time_limit
    form.control = Control(None if limit is None else max(limit, SHORTEST), solving.watch)
    try:
        conflict = form.conflict() or find_conflict(program or form.formulate(), form.control)
    except (BackendError, SolveTimeout) as error:
        return InfeasibleError(f"{reason} (which fields clash was not found: {error})")
    try:
        explanation = form.explain(conflict)
    except SolveTimeout:
        explanation = Formulation.explain(form, conflict)
    return InfeasibleError(explanation.message, conflict.fields, explanation.change)
