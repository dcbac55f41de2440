"""What a batch finds in its output, what it adds, and what it refuses, as lines and as a table."""

from __future__ import annotations

import errno
import os
import resource
import stat
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.clients.batch import tables
from equipoise.clients.batch.index import Index
from equipoise.clients.batch.journal import Journal
from equipoise.clients.batch.outputs import Output, Solved
from equipoise.clients.batch.tasks import Place, Task, Unread

from .results import KIND, OPTIONS, document, failed, failures, results, run, solved, tallied, task

TASKS = [task(number) for number in range(1, 13)]


@pytest.fixture(params=["out.jsonl", "out.parquet"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where results go."""
    return tmp_path / request.param


def test_a_result_is_its_place_what_the_worker_wrote_and_a_digest(out: Path) -> None:
    point = {"most": 32, "prior.alpha": 0.5, "value": "vip", "check": True, "least": None}
    swept = task(7, point=point)
    alone = Task(Place("a.yaml"), "kind: …", Path())
    with Output(out, OPTIONS) as output:
        output.add([solved(swept), Solved(alone.place, alone.digest(), solved(TASKS[0]).body, KIND, "optimal", 0, 0)])
    first, second = results(out)
    assert list(first) == ["file", "line", "sweep", "kind", "name", "plan", "certificate", "check", "digest"]
    assert first == {**swept.place.document(), **document(7), "digest": swept.digest().hex()}
    assert list(second) == ["file", "kind", "name", "plan", "certificate", "check", "digest"]


def test_a_failure_is_its_place_its_reason_and_a_digest(out: Path) -> None:
    broken = failed(TASKS[0], reason="not\nvalid", details={"change": {"total": float("inf")}, "cause": "WORKER_LOST"})
    with Output(out, OPTIONS) as output:
        output.fail([broken])
        assert output.tally.causes() == {"WORKER_LOST": 1}
    (said,) = failures(out)
    assert list(said.items()) == [
        ("file", "specs/many.jsonl"),
        ("line", 1),
        ("kind", KIND),
        ("name", None),
        ("type", "InfeasibleError"),
        ("reason", "not\nvalid"),
        ("exit_code", 3),
        ("change", {"total": "inf"}),
        ("cause", "WORKER_LOST"),
        ("digest", TASKS[0].digest().hex()),
    ]
    assert results(out) == []


def test_a_batch_without_failures_leaves_no_file_of_them(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        output.add([solved(TASKS[0])])
        output.fail([])
    assert sorted(out.parent.iterdir()) == [out, Path(f"{out}.batch.json")]


def test_what_has_an_outcome_is_known_again_and_nothing_else(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        assert not any(map(output.has, TASKS))
        run(output, TASKS)
        output.close(finished=False)
    with Output(out, OPTIONS, resume=True) as output:
        assert all(map(output.has, TASKS))
        assert not output.has(task(1, "another text"))
        assert not output.has(task(1, file="specs/other.jsonl"))
        assert not output.has(task(1, point={"most": 3}))
        assert not output.has(Task(Place("specs/many.jsonl"), TASKS[0].text, Path()))
        assert (output.tally.plans, output.tally.failures, output.tally.exit_code) == (10, 2, 3)


def test_what_could_not_be_read_is_known_again_by_its_reason(out: Path) -> None:
    place = Place("specs/gone.yaml")
    gone = Unread(place, eq.SpecError("is not there"))
    with Output(out, OPTIONS) as output:
        output.fail([replace(failed(Task(place, "", Path())), digest=gone.digest())])
    with Output(out, OPTIONS, resume=True) as output:
        assert output.has(gone)
        assert not output.has(Unread(place, eq.SpecError("is not UTF-8")))


def test_a_finished_batch_that_is_gone_on_with_stays_as_it_is(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        run(output, TASKS)
    before = {file: file.read_bytes() for file in out.parent.iterdir()}
    with Output(out, OPTIONS, resume=True) as output:
        assert run(output, TASKS) == 0
    assert {file: file.read_bytes() for file in out.parent.iterdir()} == before


@pytest.mark.parametrize("stop", range(13))
def test_a_batch_that_stops_anywhere_ends_with_the_results_of_one_that_does_not(out: Path, stop: int) -> None:
    whole = out.with_name(f"whole{out.suffix}")
    with Output(whole, OPTIONS) as output:
        run(output, TASKS)
    with Output(out, OPTIONS) as output:
        run(output, TASKS[:stop])
        output.close(finished=stop % 2 == 0)
    with Output(out, OPTIONS, resume=True) as output:
        assert run(output, TASKS) == len(TASKS) - stop
    assert results(out) == results(whole) and failures(out) == failures(whole)
    with Output(whole, OPTIONS, resume=True) as uninterrupted:
        assert tallied(output) == tallied(uninterrupted)


def test_going_on_where_nothing_is_starts_anew(out: Path) -> None:
    out.touch()  # by a batch that was stopped before its first result
    with Output(out, OPTIONS, resume=True) as output:
        run(output, TASKS)
    assert len(results(out)) == 10


# -- what replaces what ----------------------------------------------------------------------------------------------


def outcomes(out: Path) -> dict[int, list[str]]:
    """By line of the source: what there is, and of which text."""
    found: dict[int, list[str]] = {}
    for kind, documents in (("plan", results(out)), ("failure", failures(out))):
        for said in documents:
            found.setdefault(said["line"], []).append(f"{kind} {said['digest']}")
    return found


OLD, NEW = task(1, "old"), task(1, "new")


@pytest.mark.parametrize("was", ["plan", "failure"])
@pytest.mark.parametrize("comes", ["plan", "failure"])
def test_a_spec_that_changed_is_solved_again_and_its_old_outcome_goes(out: Path, was: str, comes: str) -> None:
    with Output(out, OPTIONS) as output:
        run(output, [task(2), task(5)])
        give(output, OLD, was)
    with Output(out, OPTIONS, resume=True) as output:
        assert run(output, [task(2), task(5)]) == 0
        assert not output.has(NEW)
        give(output, NEW, comes)
    assert outcomes(out) == {
        1: [f"{comes} {NEW.digest().hex()}"],
        2: [f"plan {task(2).digest().hex()}"],
        5: [f"failure {task(5).digest().hex()}"],
    }
    assert (output.tally.plans, output.tally.failures) == (1 + (comes == "plan"), 1 + (comes == "failure"))


def give(output: Output, task: Task, what: str) -> None:
    """Give a task an outcome."""
    if what == "plan":
        output.add([solved(task)])
    else:
        output.fail([failed(task)])


def test_a_file_that_is_rewritten_is_for_the_same_people_as_before(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        output.add([solved(OLD)])
    out.chmod(0o640)
    before = out.stat()
    with Output(out, OPTIONS, resume=True) as output:
        output.add([solved(NEW)])
    after = out.stat()
    assert after.st_ino != before.st_ino, "it was not rewritten"
    assert after.st_mode == before.st_mode


def test_old_outcomes_stay_until_a_batch_is_over(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        output.add([solved(OLD)])
    with Output(out, OPTIONS, resume=True) as output:
        output.add([solved(NEW)])
        output.close(finished=False)
    with Output(out, OPTIONS, resume=True) as output:
        assert output.tally.plans == 1
        assert output.has(NEW)
    assert outcomes(out) == {1: [f"plan {NEW.digest().hex()}"]}


@pytest.mark.parametrize("was", ["plan", "failure"])
@pytest.mark.parametrize("came", ["plan", "failure"])
def test_a_spec_that_is_changed_back_before_the_batch_is_over_has_its_old_outcome(
    out: Path, was: str, came: str
) -> None:
    with Output(out, OPTIONS) as output:
        give(output, OLD, was)
        output.close(finished=False)
    with Output(out, OPTIONS, resume=True) as output:
        assert not output.has(NEW)
        give(output, NEW, came)
        output.close(finished=False)
    with Output(out, OPTIONS, resume=True) as output:
        assert output.has(OLD)
    assert outcomes(out) == {1: [f"{was} {OLD.digest().hex()}"]}
    assert (output.tally.plans, output.tally.failures) == ((1, 0) if was == "plan" else (0, 1))


@pytest.mark.parametrize("again", ["plan", "failure"])
def test_failures_are_tried_again_on_request_and_replaced(out: Path, again: str) -> None:
    with Output(out, OPTIONS) as output:
        run(output, TASKS)
    with Output(out, OPTIONS, resume=True, retry_failed=True) as output:
        assert [one for one in TASKS if not output.has(one)] == [task(5), task(10)]
        assert (output.tally.plans, output.tally.failures, output.tally.exit_code) == (10, 0, 0)
        give(output, task(5), again)
        output.close(finished=False)
    with Output(out, OPTIONS, resume=True, retry_failed=True) as output:
        # What was tried again, and failed again, before the stop is tried once more: nobody knows why it stopped.
        assert output.has(task(5)) == (again == "plan")
        for one in (task(5), task(10)):
            if not output.has(one):
                give(output, one, again)
    found = outcomes(out)
    assert all(len(said) == 1 for said in found.values()) and len(found) == 12
    assert {line for line, said in found.items() if said[0].startswith("failure")} == (
        {5, 10} if again == "failure" else set()
    )
    assert Path(f"{out}.failures.jsonl").exists() == (again == "failure")
    assert output.tally.exit_code == (3 if again == "failure" else 0)


def test_a_failure_that_was_mended_before_a_stop_counts_no_more(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        run(output, TASKS)
    with Output(out, OPTIONS, resume=True, retry_failed=True) as output:
        output.add([solved(task(5))])
        output.close(finished=False)
    with Output(out, OPTIONS, resume=True) as output:
        assert (output.tally.plans, output.tally.failures) == (11, 1)


def test_failures_that_nobody_tried_again_stay_and_count(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        run(output, TASKS)
    with Output(out, OPTIONS, resume=True, retry_failed=True) as output:
        assert output.tally.failures == 0
    assert len(failures(out)) == output.tally.failures == 2


@pytest.mark.parametrize(("rows", "size"), [(4, 1 << 20), (1000, 1000)])
def test_a_table_of_many_groups_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, size: int
) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(tables, "GROUP_ROWS", rows)
    monkeypatch.setattr(tables, "GROUP_BYTES", size)
    out = tmp_path / "out.parquet"
    with Output(out, OPTIONS) as output:
        output.add([solved(one) for one in TASKS])
    assert 3 <= parquet.ParquetFile(out).num_row_groups <= 6
    changed = [*TASKS[:5], *(task(number, "new") for number in (6, 11)), *TASKS[7:10], TASKS[11]]
    with Output(out, OPTIONS, resume=True) as output:
        output.add([solved(one) for one in changed if not output.has(one)])
    digests = {document["line"]: document["digest"] for document in results(out)}
    assert digests == {one.place.line: one.digest().hex() for one in [*TASKS, *changed]}
    assert len(results(out)) == 12


def test_what_is_there_takes_thirty_bytes_an_outcome() -> None:
    count = 100_000
    keys = np.random.default_rng(3).bytes(24 * count)
    tracemalloc.start()
    try:
        index = Index((keys[start : start + 16], keys[start + 16 : start + 24]) for start in range(0, len(keys), 24))
        assert tracemalloc.get_traced_memory()[0] < 30 * count
    finally:
        tracemalloc.stop()
    for number in (0, 1, 77_777, count - 1):
        key, digest = keys[24 * number : 24 * number + 16], keys[24 * number + 16 : 24 * number + 24]
        assert index.holds(key, digest) and not index.holds(key, digest[::-1]) and not index.holds(key[::-1], digest)


# -- refusals --------------------------------------------------------------------------------------------------------


def refused(path: Path, match: str, options: dict[str, Any] | None = None, **how: bool) -> None:
    """An output is refused, and nothing is changed by that."""
    folder = path.parent
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()} if folder.is_dir() else None
    with pytest.raises(eq.SpecError, match=match):
        Output(path, OPTIONS if options is None else options, **how)
    assert before is None or {file: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_results_that_are_there_are_not_written_over(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        run(output, TASKS)
    refused(out, f"{out.name}: exists; go on with it by --resume, or name another")
    out.unlink()
    refused(out, r"\.failures\.jsonl: exists")


@pytest.mark.parametrize("resume", [True, False])
def test_a_file_that_no_batch_wrote_is_left_alone(out: Path, resume: bool) -> None:
    out.write_text("mine\n")
    refused(out, "another", resume=resume)


def test_results_are_not_mixed_with_those_of_other_options(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        run(output, TASKS)
    other = {"method": "exact", "seed": 0, "time_limit": 2.5}
    refused(
        out, r"made with method 'auto' \(now 'exact'\), time_limit not given \(now 2.5\); go on", other, resume=True
    )
    Output(out, {"seed": 0, "method": "auto"}, resume=True).close(finished=True)


def test_options_that_nobody_can_read_are_refused(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        run(output, TASKS)
    side = Path(f"{out}.batch.json")
    for text in ("{", "[]", '{"options": 3}', "[" * 100_000):
        side.write_text(text)
        refused(out, "does not say under which options", resume=True)
    side.unlink()
    refused(out, "exists without .*batch.json", resume=True)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("out.csv", "ends in .jsonl, .ndjson or .parquet"),
        ("out", "ends in"),
        ("out.jsonl.failures.jsonl", "ends in"),
        ("out.parquet.part.jsonl", "ends in"),
        ("nowhere/out.jsonl", "folder .*nowhere is not there"),
        ("folder.jsonl", "not a regular file"),
        ("pipe.jsonl", "not a regular file"),
        ("a\0b.jsonl", "not a path that this system allows"),
        (f"{'x' * 300}.jsonl", "File name too long"),
    ],
)
def test_what_is_no_place_for_results_is_refused(tmp_path: Path, name: str, match: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    refused(tmp_path / name, match)


def test_a_table_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(eq.UnsupportedError, match=r"pip install 'equipoise\[parquet\]'"):
        Output(tmp_path / "out.parquet", OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_link_leads_to_one_output_whichever_way_it_is_named(out: Path) -> None:
    link = out.with_name(f"link{out.suffix}")
    link.symlink_to(out)
    with Output(link, OPTIONS) as output:
        with pytest.raises(eq.SpecError, match="another batch"):
            Output(out, OPTIONS)
        run(output, TASKS)
    assert link.is_symlink() and len(results(out)) == 10


def test_a_body_that_is_no_line_is_refused(out: Path) -> None:
    with Output(out, OPTIONS) as output:
        for body in (b"", b"{}", b'{"kind": "a"}\n', b'{"kind":\n1}', b'["kind"]'):
            with pytest.raises(ValueError, match="JSON object on one line"):
                output.add([Solved(TASKS[0].place, bytes(8), body, KIND, "optimal", 0, 0)])
    assert results(out) == []


# -- a full disk -----------------------------------------------------------------------------------------------------


@contextmanager
def room(size: int) -> Iterator[None]:
    """Files end where they are this large."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_results_that_have_no_room_are_told_and_leave_nothing_half(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Output(out, OPTIONS) as output:
        run(output, TASKS[:3])
        before = out.read_bytes()
        with (
            room(len(before) + 100),
            pytest.raises(eq.SpecError, match=r"out\.jsonl: cannot be written: File too large"),
        ):
            output.add([solved(TASKS[3])])
        assert out.read_bytes() == before and output.tally.done == 3
        output.add([solved(TASKS[3])])
        assert len(results(out)) == output.tally.done == 4


def test_a_torn_line_that_cannot_be_cut_off_is_so_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"

    def full(*_: object) -> None:
        raise OSError(5, "the disk is gone")

    with Output(out, OPTIONS) as output:
        run(output, TASKS[:3])
        before = out.read_bytes()
        with monkeypatch.context() as patched, room(len(before) + 100):
            patched.setattr(os, "ftruncate", full)
            for _ in range(2):
                with pytest.raises(eq.SpecError, match="cannot be written"):
                    output.add([solved(TASKS[3])])
        assert len(out.read_bytes()) == len(before) + 100
        output.add([solved(TASKS[3])])
        assert len(results(out)) == 4


def test_a_table_that_has_no_room_leaves_its_lines(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    output = Output(out, OPTIONS)
    run(output, TASKS)
    with room(300), pytest.raises(eq.SpecError, match=r"out.parquet: cannot be written: .*--resume"):
        output.close(finished=True)
    assert not out.exists() and not out.with_name("out.parquet.new").exists()
    with Output(out, OPTIONS, resume=True) as output:
        assert run(output, TASKS) == 0
    assert len(results(out)) == 10


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_results_that_somebody_takes_away_are_missed(out: Path, how: str) -> None:
    output = Output(out, OPTIONS)
    run(output, TASKS)
    file = output.results_path
    file.unlink()
    if how == "replaced":
        file.touch()
    with pytest.raises(eq.SpecError, match=r"was removed or replaced while the batch wrote to it"):
        output.close(finished=True)
    Output(out, OPTIONS, resume=True).close(finished=False)  # nobody holds the lock


def test_results_are_where_they_are_said_to_be(out: Path) -> None:
    for stopped in (True, False):
        with Output(out, OPTIONS, resume=True) as output:
            run(output, TASKS[: 4 if stopped else 12])
            output.close(finished=not stopped)
        assert output.results_path.stat().st_size
    assert output.results_path == out


def test_a_disk_that_does_not_confirm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "out.jsonl")

    def gone(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", gone)
        with pytest.raises(eq.SpecError, match="Input/output error"):
            journal.sync()
    journal.close()


@pytest.mark.parametrize(("code", "told"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_knows_no_waiting_for_folders_will_do(
    out: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: bool
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with (
        pytest.raises(eq.SpecError, match=os.strerror(code)) if told else nullcontext(),
        Output(out, OPTIONS) as output,
    ):
        run(output, TASKS)
    assert told or len(results(out)) == 10
