"""What a person reads: a solved spec, a saved plan, a check. Formatting only; nothing is decided here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from ...solvers.baselines import Comparison
from ...solvers.check import CheckResult
from ...specs.arrays import Floats
from ...specs.certificate import Certificate
from ...specs.spec import Plan, Spec, kind
from .figures import COLUMN_DIGITS, column, distinct, duration, gain, number, percent
from .solving import Outcome
from .tables import INDENT, decision, scalars
from .terminal import plain

HEAD = 10
"""Columns that a line of a table's head takes at most, where words allow it."""
_PROOFS = {
    "dual": "dual: the plan's prices prove the bound, and check proves it again",
    "threshold": "threshold: no better level is affordable, and check proves it again",
    "search": "search: the branch and bound of the backend",
}


def print_outcome(outcome: Outcome, console: Console, whole: bool) -> None:
    """A solved spec: what was decided, what it gains, how good it is. Nothing if there is no plan."""
    if outcome.plan is None:
        return
    print_plan(outcome.plan, outcome.spec, outcome.check, outcome.file, console, whole, outcome.baselines)
    if outcome.saved is not None:
        console.print(Text(f"saved, with its spec: {plain(str(outcome.saved))}"), soft_wrap=True)
    elif outcome.check is not None and not outcome.check.ok:
        console.print("not saved")


def print_plan(
    plan: Plan,
    spec: Spec[Any] | None,
    result: CheckResult | None,
    file: str,
    console: Console,
    whole: bool,
    baselines: Sequence[Comparison] | None = None,
) -> None:
    """A plan with its certificate. What it means can be said only with its spec at hand, and if it breaks no rule."""
    _header(plan, file, console)
    for table in decision(plan, spec, console, whole):
        console.print(Padding(table, (0, 0, 1, INDENT), expand=False))
    measures = spec.measures(plan) if spec is not None and result is not None and result.objective is not None else {}
    if baselines is not None and spec is not None and plan.certified:
        console.print(Padding(_comparison(plan.certificate, baselines, measures), (0, 0, 1, INDENT), expand=False))
    else:
        _facts({name: number(value, COLUMN_DIGITS) for name, value in measures.items()}, console)
    _facts({name: number(value) for name, value in scalars(plan).items()}, console)
    if plan.certified:
        _facts(_certificate(plan.certificate, kind(plan.kind).unit), console)
    else:
        console.print("  no certificate: no solver made this plan")
    console.print(_verdict(result), soft_wrap=True)


def print_check(result: CheckResult, plan: Plan, file: str, console: Console) -> None:
    """What was found by recomputing a plan's rules, objective and bound."""
    _header(plan, file, console)
    facts: dict[str, str] = {}
    if result.objective is not None:
        facts["objective"], bound = distinct(
            result.objective, result.objective if result.bound is None else result.bound
        )
        facts["objective"] += f" {kind(plan.kind).unit}"
        facts["bound proved"] = "none" if result.bound is None else bound
        facts["gap proved"] = "unknown" if result.gap is None else percent(result.gap)
    facts["violation"] = number(result.violation)
    if plan.certified:
        facts["claimed"] = f"{plan.certificate.status}, gap {percent(plan.certificate.gap)}"
    else:
        facts["claimed"] = "nothing: the plan has no certificate"
    _facts(facts, console)
    console.print(_verdict(result), soft_wrap=True)


def _header(plan: Plan, file: str, console: Console) -> None:
    name = [("  ", ""), (plain(plan.name), "bold")] if plan.name else []
    console.print(Text.assemble((plan.kind, "bold cyan"), *name, ("  ", ""), (plain(file), "dim")), soft_wrap=True)
    console.print()


def _facts(facts: Mapping[str, str], console: Console) -> None:
    if not facts:
        return
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(plain(name), Text(plain(value)))
    console.print(Padding(grid, (0, 0, 1, INDENT), expand=False))


def _certificate(certificate: Certificate, unit: str) -> dict[str, str]:
    objective, bound = distinct(certificate.objective, certificate.bound)
    facts = {
        "status": certificate.status,
        "objective": f"{objective} {unit}, {certificate.sense}d".replace(" ,", ","),
        "bound": bound,
        "gap": f"{percent(certificate.gap)} (asked for: {percent(certificate.gap_asked)})",
        "proof": _PROOFS[certificate.proof],
        "method": certificate.method,
        "time": duration(certificate.seconds),
    }
    if certificate.stopped != "solved":
        facts["stopped"] = f"by the {certificate.stopped}" if certificate.stopped != "interrupted" else "interrupted"
    for count, note in enumerate(certificate.notes):
        facts["note" if count == 0 else f"note {count + 1}"] = note
    return facts


def _verdict(result: CheckResult | None) -> Text:
    if result is None:
        return Text("not checked: saved without its spec", style="yellow")
    if result.problems:
        lines = "".join(f"\n  {plain(problem)}" for problem in result.problems)
        return Text.assemble(("check failed:", "bold red"), lines)
    if not result.trusted:
        return Text("checked: every rule and claim recomputed from the spec ✓", style="green")
    text = Text("checked: every rule and the objective recomputed from the spec ✓", style="green")
    text.append(f"\n  {result.trusted}", style="yellow")
    if result.bound is not None and result.gap is not None:
        text.append(f"; proved here: {number(result.bound, 10)}, a gap of {percent(result.gap)}", style="yellow")
    return text


def _comparison(certificate: Certificate, baselines: Sequence[Comparison], measures: Mapping[str, float]) -> Grid:
    """Today's rules, a row each, and the plan below them."""
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    grid.add_column("today's practice" if baselines else "", style="dim", min_width=12)
    for head in ("objective", "the plan gains", "rules broken", *_measures(baselines, measures)):
        grid.add_column("\n".join(wrap(plain(head), HEAD)) if len(head) > HEAD else head, justify="right", no_wrap=True)
    measured = [column(_measure(name, baselines, measures)) for name in _measures(baselines, measures)]
    for row, baseline in enumerate(baselines):
        broken = Text(f"{baseline.broken:,}", style="red" if baseline.broken else "")
        # What breaks the rules is no alternative: there is nothing to gain over it.
        gained = "–" if baseline.broken else gain(baseline.gain)
        cells = (values[row] for values in measured)
        grid.add_row(plain(baseline.name), number(baseline.objective), gained, broken, *cells)
    own = (values[-1] for values in measured)
    grid.add_row("this plan", number(certificate.objective), "", "0", *own, style="bold")
    return grid


def _measures(baselines: Sequence[Comparison], measures: Mapping[str, float]) -> list[str]:
    return list(dict.fromkeys([*measures, *(name for baseline in baselines for name in baseline.measures)]))


def _measure(name: str, baselines: Sequence[Comparison], measures: Mapping[str, float]) -> Floats:
    return np.array([source.get(name, math.nan) for source in (*(other.measures for other in baselines), measures)])
