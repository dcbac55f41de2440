"""Outcomes of tasks as workers report them, made up: always the same ones for the same task."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise.clients.batch.outputs import Failed, Output, Solved
from equipoise.clients.batch.tasks import Place, Task

KIND = "rollout_budgets"
OPTIONS = {"method": "auto", "gap": None, "seed": 0}


def task(
    number: int, text: str = "a spec", file: str = "specs/many.jsonl", point: Mapping[str, Any] | None = None
) -> Task:
    """The task on a line of a file."""
    return Task(Place(file, number, point), f"{text} {number}", Path())


def document(number: int, **other: Any) -> dict[str, Any]:
    """What a worker writes of a plan, as far as it matters here."""
    plan = {"kind": KIND, "rollouts": [number, 2 * number], "price": number / 7}
    certificate = {"status": "optimal", "objective": -number / 3, "bound": -number / 3, "gap": 0.0}
    certificate |= {"seconds": number / 1000, "method": "auto", "notes": []}
    check = {"ok": True, "problems": []}
    return {"kind": KIND, "name": f"spec {number}", "plan": plan, "certificate": certificate, "check": check} | other


def solved(task: Task, **other: Any) -> Solved:
    """Its plan."""
    body = document(task.place.line or 0, **other)
    said = body["certificate"]
    gap, seconds = float(said["gap"]), said["seconds"]
    return Solved(task.place, task.digest(), json.dumps(body).encode(), body["kind"], said["status"], gap, seconds)


def failed(task: Task, **other: Any) -> Failed:
    """Its failure."""
    failure = Failed(task.place, task.digest(), KIND, None, "InfeasibleError", "too little", 3, {"fields": ["total"]})
    return replace(failure, **other)


def fails(task: Task) -> bool:
    """Whether it is one of those that fail."""
    return (task.place.line or 0) % 5 == 0


def run(output: Output, tasks: Iterable[Task], together: int = 3) -> int:
    """Give an outcome to each of the tasks that has none yet, some at once. Returns to how many."""
    left = [task for task in tasks if not output.has(task)]
    for start in range(0, len(left), together):
        chunk = left[start : start + together]
        output.add([solved(task) for task in chunk if not fails(task)])
        output.fail([failed(task) for task in chunk if fails(task)])
    return len(left)


def results(out: Path) -> list[dict[str, Any]]:
    """What a finished output says, as documents, whatever its format."""
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text().splitlines()]
    from pyarrow import parquet

    return [_document(row) for row in parquet.read_table(out).to_pylist()]


def _document(row: dict[str, Any]) -> dict[str, Any]:
    parts = {name: json.loads(row[name]) for name in ("plan", "certificate", "check")}
    for name in ("objective", "bound", "gap", "seconds", "status", "method"):
        assert row[name] == parts["certificate"][name]
    places = {name: row[name] for name in ("file", "line") if row[name] is not None}
    places |= {} if row["sweep"] is None else {"sweep": json.loads(row["sweep"])}
    return {**places, "kind": row["kind"], "name": row["name"], **parts, "digest": row["digest"]}


def failures(out: Path) -> list[dict[str, Any]]:
    """The lines of failures."""
    path = Path(f"{out}.failures.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tallied(output: Output) -> Any:
    """A tally as plain data."""
    kinds = {
        name: (
            kind.statuses,
            kind.failures,
            [(part.count, part.largest, part.quantile(0.5)) for part in (kind.gap, kind.seconds)],
        )
        for name, kind in output.tally.kinds.items()
    }
    return kinds, output.tally.exit_code


if __name__ == "__main__":
    # A batch that is there to be killed, and goes on where the one before was killed: results go to the first argument,
    # of as many tasks as the second says. It tells when it starts to write.
    with Output(Path(sys.argv[1]), OPTIONS, resume=True) as killed:
        print("writes", flush=True)
        run(killed, [task(number) for number in range(1, int(sys.argv[2]) + 1)])
