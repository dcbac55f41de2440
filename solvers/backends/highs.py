"""HiGHS, through highspy's arrays: linear and mixed-integer programs, with duals, warm starts and interruption.

What highspy does not do is done here: models are checked before (`program.py`), objectives are scaled so that
its absolute tolerances are far below the smallest cost that matters, every solve runs in a fresh thread (its
executors are per thread), and a model that was interrupted is never used again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from ...specs.certificate import OPTIMAL_GAP, Stopped
from ...specs.errors import BackendError, SolveTimeout, UnsupportedError
from ..answer import Answer, ProgramInfeasible, cost_scale, empty_answer
from ..control import BackendStuck, Control, Options, run_apart
from ..program import Floats, Program

SMALLEST_COEFFICIENT = 1e-9
"""HiGHS drops smaller coefficients without a word."""
DUAL_TOLERANCE = 1e-10
WANTED = "highspy>=1.13.1,<1.14"
WHOLE = 1e-6
"""How far from a whole number the value of an integer column may be."""


class HighsBackend:
    """HiGHS. Keeps its model between solves: one of the same structure is changed in place, and starts warm."""

    name: ClassVar[str] = "highs"

    def __init__(self) -> None:
        _refuse_unsound_versions()
        self._model: Any = None
        self._program: Program | None = None

    def refuses(self, program: Program) -> str | None:
        """HiGHS takes every program without tiny coefficients."""
        if program.nonzeros and np.abs(program.coefficients).min() <= SMALLEST_COEFFICIENT:
            return f"a coefficient is below {SMALLEST_COEFFICIENT:g}, which HiGHS would drop; scale the spec's numbers"
        return None

    def solve(self, program: Program, options: Options, control: Control) -> Answer:
        """The optimum, or the best found within the limits. Raises as `Backend` says."""
        if (reason := self.refuses(program)) is not None:
            raise UnsupportedError(reason)
        if program.columns == 0:
            return empty_answer(program, self._label(False))
        if program.integral:
            answer = self._run(program.relaxed(), options, control)
            apart = np.abs(answer.values - np.rint(answer.values))[program.integer]
            if apart.max(initial=0.0) < WHOLE:
                answer.values[program.integer] = np.rint(answer.values[program.integer])
                return replace(answer, program=program)
        return self._run(program, options, control)

    def _run(self, program: Program, options: Options, control: Control) -> Answer:
        scale = cost_scale(program.cost)
        model = self._prepared(program, scale)
        watch = _Watch(model, program, scale, control)
        self._set_options(model, program, options, control)
        if program.start is not None and program.integer.any():
            model.setSolution(program.columns, np.arange(program.columns, dtype=np.int32), program.start)

        try:
            status = run_apart(model.run, watch.stop, control)
            return self._answer(model, program, scale, status, options, control)
        except BackendStuck:
            self._model = None
            if (answer := watch.abandoned(self._label(True))) is not None:
                return answer
            if program.start is not None:
                return _unsearched(program, program.start, control.why_stopped(), self._label(True))
            raise
        except BaseException:
            self._model = None
            raise
        finally:
            if watch.stopped:
                self._model = None  # an interrupt is sticky: the next solve takes a new model

    def _prepared(self, program: Program, scale: float) -> Any:
        """A HiGHS object that holds the program: the last one with its numbers changed, or a new one."""
        import highspy

        last = self._program
        if self._model is not None and last is not None and _same_structure(last, program):
            model = self._model
            _unwatch(model)
            every = np.arange(program.columns, dtype=np.int32)
            model.changeColsCost(program.columns, every, program.cost * scale)
            model.changeObjectiveOffset(program.offset * scale)
            model.changeColsBounds(program.columns, every, program.lower, program.upper)
            if program.height:
                every = np.arange(program.height, dtype=np.int32)
                model.changeRowsBounds(program.height, every, program.row_lower, program.row_upper)
        else:
            model = highspy.Highs()
            model.silent()
            _pass(model, program, scale)
            if self._model is not None and last is not None:
                _carry_over(self._model, model, last, program)
        self._model, self._program = model, program
        return model

    def _set_options(self, model: Any, program: Program, options: Options, control: Control) -> None:
        gap = options.asked_gap(program.gap)
        for name, value in (
            ("threads", options.threads),
            ("random_seed", options.seed),
            ("mip_rel_gap", gap),
            ("mip_abs_gap", 0.0),
            ("primal_feasibility_tolerance", 1e-9),
            ("mip_feasibility_tolerance", 1e-9),
            ("dual_feasibility_tolerance", DUAL_TOLERANCE),
            ("time_limit", min(control.remaining, 1e30) + model.getRunTime()),
        ):
            _check(model.setOptionValue(name, value), f"option {name} = {value}")

    def _answer(
        self, model: Any, program: Program, scale: float, status: Any, options: Options, control: Control
    ) -> Answer:
        import highspy

        if status == highspy.HighsStatus.kError:
            raise BackendError(f"HiGHS failed: {model.modelStatusToString(model.getModelStatus())}")
        outcome, kinds = model.getModelStatus(), highspy.HighsModelStatus
        if outcome in (kinds.kInfeasible, kinds.kUnboundedOrInfeasible):
            raise ProgramInfeasible("HiGHS proved the program infeasible")
        stopped: Stopped = "solved"
        if outcome != kinds.kOptimal:
            if outcome not in (kinds.kTimeLimit, kinds.kInterrupt):
                raise BackendError(f"HiGHS stopped without an answer: {model.modelStatusToString(outcome)}")
            stopped = control.why_stopped()
        info, search = model.getInfo(), bool(program.integer.any())
        if info.primal_solution_status != highspy.kSolutionStatusFeasible:
            if program.start is not None:
                return _unsearched(program, program.start, stopped, self._label(search))
            raise SolveTimeout(f"no feasible plan was found within {control.seconds:.3g} s ({stopped})")
        solution = model.getSolution()
        values = np.asarray(solution.col_value, dtype=np.float64)
        values[program.integer] = np.rint(values[program.integer])
        objective = math.fsum(program.cost * values) + program.offset
        if search:
            bound, asked = info.mip_dual_bound / scale, options.asked_gap(program.gap)
            if stopped == "solved" and asked > 0 and abs(objective - bound) > OPTIMAL_GAP * abs(objective):
                stopped = "gap"
        else:
            bound = objective if stopped == "solved" else program.unbounded
        duals = None if search or not solution.dual_valid else np.asarray(solution.row_dual, dtype=np.float64) / scale
        return Answer(program, values, objective, bound, stopped, self._label(search), duals)

    def _label(self, search: bool) -> str:
        return f"HiGHS {_version()} {'branch and bound' if search else 'simplex'}"


def _version() -> str:
    import highspy

    return f"{highspy.HIGHS_VERSION_MAJOR}.{highspy.HIGHS_VERSION_MINOR}.{highspy.HIGHS_VERSION_PATCH}"


def _unsearched(program: Program, values: Floats, stopped: Stopped, label: str) -> Answer:
    """The point to start from as the answer, where time was over before the search had any of its own."""
    note = "the plan is the one to start from: there was no time to search for a better one"
    return _at(program, values.copy(), program.unbounded, stopped, label, note)


def _at(program: Program, values: Floats, bound: float, stopped: Stopped, label: str, note: str) -> Answer:
    """A point that HiGHS did not hand over itself, as an answer."""
    values[program.integer] = np.rint(values[program.integer])
    objective = math.fsum(program.cost * values) + program.offset
    return Answer(program, values, objective, bound, stopped, label, notes=(note,))


def _refuse_unsound_versions() -> None:
    """Name the cause where pip was talked into a highspy that cannot be used here."""
    try:
        import highspy
    except ImportError as error:
        raise BackendError(f"highspy cannot be loaded ({error}); Equipoise needs {WANTED}") from None
    version = highspy.HIGHS_VERSION_MAJOR, highspy.HIGHS_VERSION_MINOR
    if version == (1, 14):
        raise BackendError(f"highspy 1.14 calls wrong answers optimal (HiGHS issue 2957); install {WANTED}")
    if version >= (1, 15):
        raise BackendError(
            "highspy 1.15 and OR-Tools 9.15 bring two different HiGHS libraries, which crash in one process; "
            f"install {WANTED}"
        )


def _pass(model: Any, program: Program, scale: float) -> None:
    import highspy

    sense = highspy.ObjSense.kMinimize if program.sense == "minimise" else highspy.ObjSense.kMaximize
    status = model.passModel(
        program.columns,
        program.height,
        program.nonzeros,
        int(highspy.MatrixFormat.kColwise),
        int(sense),
        program.offset * scale,
        program.cost * scale,
        program.lower,
        program.upper,
        program.row_lower,
        program.row_upper,
        program.starts[:-1].astype(np.int32),
        program.rows.astype(np.int32),
        program.coefficients,
        program.integer.astype(np.int32),
    )
    _check(status, "passing the model")


def _check(status: Any, what: str) -> None:
    import highspy

    if status != highspy.HighsStatus.kOk:
        raise BackendError(f"HiGHS answered {status} to {what}")


class _Watch:
    """Eyes on a running model: shows it the stop button, reports its bounds, keeps its best point."""

    def __init__(self, model: Any, program: Program, scale: float, control: Control) -> None:
        self.program, self.scale, self.control = program, scale, control
        self.stopped = False
        self.best: Floats | None = None
        model.cbSimplexInterrupt += self._interrupt
        model.cbIpmInterrupt += self._interrupt
        model.cbMipInterrupt += self._interrupt
        if program.integer.any():
            model.cbMipInterrupt += self._report
            model.cbMipImprovingSolution += self._keep

    def stop(self) -> None:
        """Have the model stop when it next looks."""
        self.stopped = True

    def _interrupt(self, event: Any) -> None:
        if self.stopped:
            event.interrupt()

    def _report(self, event: Any) -> None:
        sides = event.data_out.mip_primal_bound, event.data_out.mip_dual_bound
        self.control.report(*(side / self.scale if abs(side) < 1e30 else None for side in sides))

    def _keep(self, event: Any) -> None:
        self.best = np.array(event.data_out.mip_solution, dtype=np.float64)
        self._report(event)

    def abandoned(self, label: str) -> Answer | None:
        """The best point of a model that did not stop when it was told to, with the last bound that it reported."""
        if self.best is None:
            return None
        bound = self.program.unbounded if self.control.bound is None else self.control.bound
        note = "HiGHS did not stop in time and was abandoned; the plan is the best that it had reported"
        return _at(self.program, self.best, bound, self.control.why_stopped(), label, note)


def _unwatch(model: Any) -> None:
    model.clearCallbacks()


def _same_structure(one: Program, other: Program) -> bool:
    return (
        one.sense == other.sense
        and np.array_equal(one.starts, other.starts)
        and np.array_equal(one.rows, other.rows)
        and np.array_equal(one.coefficients, other.coefficients)
        and np.array_equal(one.integer, other.integer)
        and one.height == other.height
    )


def _carry_over(old: Any, new: Any, last: Program, program: Program) -> None:
    """Start a new model from the last one's basis or solution, where they have the same shape."""
    if (last.columns, last.height) != (program.columns, program.height):
        return
    if program.integer.any():
        values = np.asarray(old.getSolution().col_value, dtype=np.float64)
        if len(values) == program.columns:
            new.setSolution(program.columns, np.arange(program.columns, dtype=np.int32), values)
    elif old.getBasis().valid:
        new.setBasis(old.getBasis())
