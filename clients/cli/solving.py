"""From spec files to outcomes: read, solve, check, save, compare. One that fails never stops the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...solvers.baselines import Comparison, compare
from ...solvers.check import CheckResult, check
from ...solvers.control import Options, Watcher
from ...solvers.solve import Solver
from ...specs.errors import SpecError
from ...specs.saving import save
from ...specs.spec import Plan, Spec
from ..failures import CHECK_FAILED, INTERRUPTED, Failure, failure_of, not_started
from .interrupt import Interrupt
from .sources import STDIN, read_spec, shown

SUFFIXES = (".json", ".yaml", ".yml", ".safetensors")


@dataclass(frozen=True)
class Outcome:
    """What became of one spec file. Whatever was reached before a failure is kept.

    saved: where plan and spec were written. baselines: today's practice beside the plan, None if not asked for.
    """

    file: str
    spec: Spec[Any] | None = None
    plan: Plan | None = None
    check: CheckResult | None = None
    saved: Path | None = None
    baselines: Sequence[Comparison] | None = None
    failure: Failure | None = None

    @property
    def code(self) -> int:
        """The exit code that this outcome alone would give."""
        failed = 0 if self.failure is None else self.failure.code
        doubted = CHECK_FAILED if self.check is not None and not self.check.ok else 0
        stopped = self.plan is not None and self.plan.certified and self.plan.certificate.stopped == "interrupted"
        return max(failed, doubted, INTERRUPTED if stopped else 0)


@dataclass(frozen=True)
class Job:
    """What to do with every spec. targets: where to save each plan, by file; empty if not to be saved."""

    options: Options
    targets: dict[int, Path]
    compare: bool = False

    def __post_init__(self) -> None:
        Solver(self.options)  # refuses what no spec could be solved with


def targets(out: Path | None, files: Sequence[str]) -> dict[int, Path]:
    """Where each plan goes: `out` itself for one spec, a file each in the folder `out` for several.

    Settled before anything is solved, so that no plan is lost for want of a place. Raises `SpecError`.
    """
    if out is None:
        return {}
    if len(files) == 1 and not out.is_dir():
        if out.suffix not in SUFFIXES:
            raise SpecError(f"{out}: cannot save as {out.suffix or 'a file without suffix'}; use {_listed(SUFFIXES)}")
        if not out.parent.is_dir():
            raise SpecError(f"{out}: there is no folder {out.parent}")
        if files[0] != STDIN and out.exists() and Path(files[0]).exists() and out.samefile(files[0]):
            raise SpecError(f"{out}: is the spec itself; save the plan under another name")
        return {0: out}
    if out.suffix in SUFFIXES and not out.is_dir():
        raise SpecError(f"{out}: is one file, for {len(files)} plans; name a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"{out}: cannot be a folder for the plans: {error.strerror or error}") from None
    places: dict[int, Path] = {}
    for number, file in enumerate(files):
        stem = "stdin" if file == STDIN else Path(file).stem
        place, repeat = out / f"{stem}.plan.json", 1
        while place in places.values():
            repeat += 1
            place = out / f"{stem}-{repeat}.plan.json"
        places[number] = place
    return places


def solve_all(
    files: Sequence[str], job: Job, interrupt: Interrupt, watching: Callable[[], AbstractContextManager[Watcher]]
) -> Iterator[Outcome]:
    """The outcome of each spec in turn, as soon as it is there. `watching` gives a watcher for one solve."""
    for number, file in enumerate(files):
        if interrupt.requested:
            yield Outcome(file, failure=not_started())
        else:
            yield _solve_one(file, job, job.targets.get(number), interrupt, watching)


def _solve_one(
    file: str,
    job: Job,
    target: Path | None,
    interrupt: Interrupt,
    watching: Callable[[], AbstractContextManager[Watcher]],
) -> Outcome:
    spec = plan = result = saved = baselines = failure = None
    try:
        spec = read_spec(file)
        with watching() as watch:
            plan = Solver(job.options).solve(spec, watch)
        result = check(spec, plan)
        if target is not None and result.ok:
            save(plan, target, spec)
            saved = target
        if job.compare:
            baselines = compare(spec, plan)
    except Exception as error:  # whatever it is, the other specs go on
        failure = failure_of(error, interrupt.requested)
    return Outcome(shown(file), spec, plan, result, saved, baselines, failure)


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
