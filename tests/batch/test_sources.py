"""What comes out of folders, patterns, files of lines and tables: everything once, in order, whatever is in them."""

from __future__ import annotations

import builtins
import io
import json
import os
import random
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import equipoise as eq
from equipoise.clients.batch import rows
from equipoise.clients.batch.sources import Sources, sources
from equipoise.clients.batch.tasks import Place, Task, Unread
from equipoise.specs.reading import TaskDocument

SPEC = {"kind": "rollout_budgets", "prompts": {"successes": [1, 4], "trials": [8, 8]}, "total": 12}
LINE = json.dumps(SPEC)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*files: str, text: str = LINE) -> None:
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text)


def places(*arguments: str, leave_out: Sequence[Path] = ()) -> list[str]:
    """Where everything comes from: `file`, `file:line`."""
    found = [item.place for item in sources(arguments, leave_out)]
    return [place.file if place.line is None else f"{place.file}:{place.line}" for place in found]


def tasks(*arguments: str) -> list[Task]:
    found = list(sources(arguments))
    assert all(isinstance(item, Task) for item in found), found
    return [item for item in found if isinstance(item, Task)]


def unread(*arguments: str) -> list[str]:
    return [str(item.error) for item in sources(arguments) if isinstance(item, Unread)]


def refused(*arguments: str, leave_out: Sequence[Path] = ()) -> str:
    with pytest.raises(eq.SpecError) as caught:
        sources(arguments, leave_out)
    return str(caught.value)


# -- folders, patterns, files --------------------------------------------------------------------------------------


def test_a_folder_gives_its_specs_by_name_its_own_before_those_of_its_folders() -> None:
    write("d/b.yaml", "d/a.json", "d/c.YML", "d/a/z.yaml", "d/a/y.jsonl", "d/z/deep/er/x.yaml")
    assert places("d") == ["d/a.json", "d/b.yaml", "d/c.YML", "d/a/y.jsonl:1", "d/a/z.yaml", "d/z/deep/er/x.yaml"]
    assert places("./d/") == places("d")
    os.chdir("d")
    assert places(".")[0] == "a.json"


def test_a_folder_leaves_out_what_is_hidden_what_is_no_spec_and_what_a_batch_wrote() -> None:
    write("d/a.yaml", "d/.hidden.yaml", "d/.git/b.yaml", "d/notes.md", "d/table.csv", "d/a.plan.json")
    write("d/out.jsonl", "d/out.jsonl.batch.json", "d/out.jsonl.failures.jsonl", "d/out.parquet.part.jsonl")
    write("d/x/out.jsonl", "d/own.jsonl")
    assert places("d", leave_out=[Path("d/own.jsonl")]) == ["d/a.yaml", "d/x/out.jsonl:1"]


def test_a_saved_plan_that_is_named_goes_on_and_is_told_to_be_one() -> None:
    write("d/a.plan.json", text='{"equipoise": "0.1.0", "plan": {"kind": "rollout_budgets"}}')
    [task] = tasks("d/*.plan.json")
    with pytest.raises(eq.SpecError, match="is a saved plan"):
        TaskDocument(task.text, task.place.file).spec(None)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.yaml", ["a.yaml"]),
        ("d/*.yaml", ["d/a.yaml", "d/b.yaml"]),
        ("d/*", ["d/a.yaml", "d/b.yaml", "d/c.json"]),
        ("./d/[ac].*", ["d/a.yaml", "d/c.json"]),
        ("d/[!a].yaml", ["d/b.yaml"]),
        ("*/e/*.yaml", ["d/e/a.yaml"]),
        ("**/a.yaml", ["a.yaml", "d/a.yaml", "d/e/a.yaml", "d/e/f/a.yaml"]),
        ("d/**/*.yaml", ["d/a.yaml", "d/b.yaml", "d/e/a.yaml", "d/e/f/a.yaml"]),
        ("d/**", ["d/a.yaml", "d/b.yaml", "d/c.json", "d/e/a.yaml", "d/e/f/a.yaml"]),
        ("**/e/**/a.*", ["d/e/a.yaml", "d/e/f/a.yaml"]),
        ("**/**/f/*", ["d/e/f/a.yaml"]),
        ("d/.h*/*.yaml", ["d/.hidden/a.yaml"]),
    ],
)
def test_a_pattern_gives_what_a_shell_would_find_in_order_and_once(pattern: str, found: list[str]) -> None:
    write("a.yaml", "d/a.yaml", "d/b.yaml", "d/c.json", "d/notes.md", "d/e/a.yaml", "d/e/f/a.yaml", "d/.hidden/a.yaml")
    assert places(pattern) == found
    assert places(str(Path.cwd() / pattern)) == [str(Path.cwd() / file) for file in found]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file() -> None:
    write("a[1].yaml", "a1.yaml")
    assert places("a[1].yaml") == ["a[1].yaml"]


def test_nothing_comes_twice_however_it_is_named() -> None:
    write("d/a.yaml", "d/b.yaml", "d/e/c.yaml")
    every = ["d/a.yaml", "d/b.yaml", "d/e/c.yaml"]
    assert places("d", "d/a.yaml", "d/*.yaml", "d/e", ".", str(Path("d").resolve())) == every
    assert places("d/b.yaml", "./d/b.yaml", "d") == ["d/b.yaml", "d/a.yaml", "d/e/c.yaml"]
    assert places("d/e", "d") == ["d/e/c.yaml", "d/a.yaml", "d/b.yaml"]
    assert places("d/*.yaml", "**/*.yaml") == every


def test_links_are_followed_once_and_circles_end() -> None:
    write("d/a.yaml", "out/b.yaml", "out/deep/c.yaml")
    os.symlink("a.yaml", "d/0.yaml")  # to what comes anyway
    os.symlink("../out/b.yaml", "d/linked.yaml")
    os.symlink("../d", "d/circle")
    os.symlink("../out", "d/zout")
    assert places("d") == ["d/a.yaml", "d/linked.yaml", "d/zout/deep/c.yaml"]
    assert places("d", "out") == places("d")
    assert places("out", "d") == ["out/b.yaml", "out/deep/c.yaml", "d/a.yaml"]
    assert places("d/**/*.yaml") == places("d")


def test_a_link_to_the_folder_around_gives_each_file_once() -> None:
    write("a.yaml", "d/b.yaml", "d/e/c.yaml", "z/d.yaml")
    os.symlink("..", "d/e/up")
    os.symlink("../..", "d/e/upper")
    assert places("d") == ["d/b.yaml", "d/e/c.yaml", "d/e/upper/a.yaml", "d/e/upper/z/d.yaml"]


def test_random_trees_with_links_give_every_file_exactly_once(here: Path) -> None:
    """Whatever is named, in whatever order: as many as there are files that a path without hidden names leads to."""
    chance = random.Random(20261121)
    for number in range(40):
        root = here / str(number)
        folders = [root]
        for name in range(chance.randrange(1, 7)):
            folders.append(chance.choice(folders) / f"f{name}")
            folders[-1].mkdir(parents=True)
        for name in range(chance.randrange(1, 9)):
            write(str(chance.choice(folders) / f"{name}.yaml"))
        for name in range(chance.randrange(4)):
            link = chance.choice(folders) / f"l{name}"
            link.symlink_to(chance.choice(folders), target_is_directory=True)
        for name in range(chance.randrange(4)):
            link = chance.choice(folders) / f"m{name}.yaml"
            link.symlink_to(chance.choice(sorted(root.rglob("[0-9].yaml"))))
        every = {os.path.realpath(path) for path in root.rglob("[0-9].yaml")}
        named = [str(chance.choice([folder, folder / "**"])) for folder in chance.sample(folders, len(folders))]
        found = [item.place.file for item in Sources([name for name in [*named, str(root)] if _holds(name)])]
        assert sorted(map(os.path.realpath, found)) == sorted(every), (number, named)


def _holds(name: str) -> bool:
    try:
        return bool(sources([name]))
    except eq.SpecError:
        return False


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("nowhere.yaml", "nowhere.yaml: No such file or directory; a source is a folder, a pattern"),
        ("*.toml", "*.toml: matches no file that is a spec or holds specs (.yaml, .yml, .json"),
        ("empty/**/*.yaml", "matches no file"),
        ("nowhere/**/*.yaml", "No such file or directory"),
        ("empty", "empty: holds no file that is a spec"),
        ("notes.md", "notes.md: .md is no kind of source"),
        ("README", "README: a name without suffix is no kind of source"),
        ("a.yaml/b.yaml", "Not a directory"),
        ("pipe.jsonl", "pipe.jsonl: is not a regular file; give JSON lines to -"),
        ("a\0b.yaml", "is not a path that this system allows"),
        ("*\0.yaml", "is not a path that this system allows"),
        ("\ud800.yaml", "is not a path that this system allows"),
        ("x" * 5000 + ".yaml", "File name too long"),
        ("", "a source is a folder"),
    ],
)
def test_an_argument_that_names_nothing_is_refused_at_once(argument: str, words: str) -> None:
    write("notes.md", "README", "a.yaml", "empty/notes.md")
    os.mkfifo("pipe.jsonl")
    assert words in refused(argument)


def test_what_the_batch_writes_is_no_source() -> None:
    write("a.yaml", "out.jsonl")
    write("out.jsonl.failures.jsonl", "out.jsonl.part.jsonl", "out.jsonl.batch.json")
    for own in ("out.jsonl", "out.jsonl.failures.jsonl"):
        assert "is written by this batch" in refused(own, leave_out=[Path("out.jsonl")])
    assert places("*", leave_out=[Path("./out.jsonl")]) == ["a.yaml"]
    assert "holds no file" in refused(".", leave_out=[Path("a.yaml"), Path("out.jsonl")])


def test_standard_input_can_be_named_once_and_something_must_be_named() -> None:
    assert "named twice" in refused("-", "-")
    assert "no source is named" in refused()


def test_what_cannot_be_read_is_told_and_the_rest_goes_on() -> None:
    write("d/b.yaml")
    Path("d/a.yaml").write_bytes(b"kind: \xff")
    os.symlink("nothing.yaml", "d/c.yaml")
    os.mkfifo("d/pipe.yaml")
    assert places("d") == ["d/a.yaml", "d/b.yaml", "d/c.yaml", "d/pipe.yaml"]
    assert unread("d") == [
        "d/a.yaml: is not UTF-8 text (invalid start byte at byte 6)",
        "d/c.yaml: is a link to nothing",
        "d/pipe.yaml: is not a regular file",
    ]


def test_a_file_that_goes_away_before_its_turn_is_told() -> None:
    write("d/a.yaml", "d/b.yaml", "c.jsonl")
    found = iter(sources(["d", "c.jsonl"]))
    next(found)
    Path("d/b.yaml").unlink()
    Path("c.jsonl").unlink()
    assert [str(item.error) for item in found if isinstance(item, Unread)] == [
        "d/b.yaml: No such file or directory",
        "c.jsonl: No such file or directory",
    ]


def test_a_folder_that_may_not_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    write("d/a.yaml", "d/e/b.yaml", "d/f/c.yaml")
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if path == "d/e":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert places("d") == ["d/a.yaml", "d/e", "d/f/c.yaml"]
    assert unread("d") == ["d/e: Permission denied"]
    with pytest.raises(eq.SpecError, match=r"d/e: Permission denied"):
        sources(["d/e"])


def test_a_name_that_is_no_text_is_shown_as_text() -> None:
    write("d/b.yaml")
    with open(b"d/\xff.yaml", "wb") as file:
        file.write(LINE.encode())
    assert places("d") == ["d/b.yaml", "d/\\xff.yaml"]


def test_a_task_has_its_whole_text_and_its_folder() -> None:
    write("d/a.yaml", text="\ufeffkind: rollout_budgets\n")
    assert tasks("d") == [Task(Place("d/a.yaml"), "kind: rollout_budgets\n", Path("d"))]


# -- lines ---------------------------------------------------------------------------------------------------------


def test_lines_are_numbered_as_an_editor_does_and_blank_ones_are_skipped() -> None:
    Path("a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \t\n{"a": "\xc3\xbc"}\n{"a": 3}')
    assert [(task.place, task.text) for task in tasks("a.jsonl")] == [
        (Place("a.jsonl", 1), '{"a": 1}'),
        (Place("a.jsonl", 4), '{"a": "ü"}'),
        (Place("a.jsonl", 5), '{"a": 3}'),
    ]


def test_file_references_of_lines_start_at_the_folder_of_their_file() -> None:
    write("d/a.ndjson")
    assert tasks("d/a.ndjson")[0].folder == Path("d")


def test_standard_input_is_lines(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    write("a.yaml")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{LINE}\n\n{LINE}".encode())))
    assert tasks("-", "a.yaml") == [
        Task(Place("<stdin>", 1), LINE, here),
        Task(Place("<stdin>", 3), LINE, here),
        Task(Place("a.yaml"), LINE, Path()),
    ]


def test_a_line_that_is_no_text_is_told_and_the_next_one_is_read() -> None:
    Path("a.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xff"}\n{"a": 3}\n')
    assert places("a.jsonl") == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert unread("a.jsonl") == ["a.jsonl:2: is not UTF-8 text (invalid start byte at byte 7 of the line)"]


@pytest.mark.parametrize("length", [98, 99, 100, 101, 102, 103, 250, 10_000])
def test_a_line_that_is_too_long_is_told_and_the_next_one_is_read(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LARGEST_DOCUMENT", 100)
    monkeypatch.setattr(rows, "_BLOCK", 64)
    for end in ("\n", ""):
        Path("a.jsonl").write_text(f"{{}}\n{'x' * length}\n{{}}{end}\n{'y' * length}{end}")
        found = list(sources(["a.jsonl"]))
        kinds = [(item.place.line, type(item)) for item in found]
        long = Task if length <= 100 else Unread
        assert kinds == [(1, Task), (2, long), (3, Task), (4 + len(end), long)]


def test_a_file_of_lines_is_streamed_and_memory_stays_level() -> None:
    with open("a.jsonl", "w") as file:
        file.writelines(f'{{"a": "{"x" * 1000}"}}\n' for _ in range(20_000))
    tracemalloc.start()
    count = sum(1 for _ in sources(["a.jsonl"]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 2e6


# -- sweeps --------------------------------------------------------------------------------------------------------


def test_a_sweep_is_unfolded_in_a_file_in_a_line_and_in_a_row() -> None:
    text = json.dumps({**SPEC, "sweep": {"most": [4, 8], "total": [8]}})
    grid = [{"most": 4, "total": 8}, {"most": 8, "total": 8}]
    write("a.yaml", "b.json", "c.jsonl", text=text)
    table = pa.Table.from_pylist([{**SPEC, "sweep": {"most": [4, 8], "total": [8]}}])
    parquet.write_table(table, "d.parquet")
    assert [task.place for task in tasks("a.yaml", "b.json", "c.jsonl", "d.parquet")] == [
        *(Place("a.yaml", None, point) for point in grid),
        *(Place("b.json", None, point) for point in grid),
        *(Place("c.jsonl", 1, point) for point in grid),
        *(Place("d.parquet", 1, point) for point in grid),
    ]
    assert {task.text for task in tasks("a.yaml")} == {text}


def test_a_broken_sweep_is_told_once_by_name_file_and_line() -> None:
    write("a.yaml", text="kind: rollout_budgets\nname: lost\nsweep: {most: [4, 4]}\n")
    write("b.jsonl", text=f'{LINE}\n{{"name": "n", "sweep": 4}}\n')
    found = [item for item in sources(["a.yaml", "b.jsonl"]) if isinstance(item, Unread)]
    assert [(item.name, str(item.error)) for item in found] == [
        ("lost", "a.yaml:3: sweep.most[1]: is there twice: 4"),
        ("n", "b.jsonl:2: sweep: must map fields to lists of their values, as in {most: [32, 64]}, got 4"),
    ]


def test_a_document_that_only_talks_of_a_sweep_is_one_task() -> None:
    write("a.yaml", text="# a sweep\nkind: rollout_budgets\nname: sweep\n")
    write("b.json", text='["sweep"]')
    write("c.yaml", text="sweep: [unclosed")
    write("d.jsonl", text='{"name": "sweep"}\n{"sweep": \n')
    assert [task.place.point for task in tasks("a.yaml", "b.json", "c.yaml", "d.jsonl")] == [None] * 5


# -- tables --------------------------------------------------------------------------------------------------------


def documents(table: pa.Table, **options: Any) -> list[Any]:
    parquet.write_table(table, "a.parquet", **options)
    return [json.loads(task.text) for task in tasks("a.parquet")]


def test_each_row_of_a_table_is_a_document_of_its_fields() -> None:
    rows = [
        {"kind": "rollout_budgets", "name": None, "prompts": {"successes": [1, 2], "trials": [8, 8]}, "total": 12},
        {"kind": "rollout_budgets", "name": "b", "prompts": {"successes": [], "trials": None}, "total": None},
    ]
    assert documents(pa.Table.from_pylist(rows)) == [
        {"kind": "rollout_budgets", "prompts": {"successes": [1, 2], "trials": [8, 8]}, "total": 12},
        {"kind": "rollout_budgets", "name": "b", "prompts": {"successes": []}},
    ]


def test_rows_in_lists_and_numbers_that_are_not_finite_are_as_a_spec_says_them() -> None:
    inf, nan = float("inf"), float("nan")
    rows = [{"kind": "a", "scores": [[0.5, -inf], [nan, None]], "groups": [{"name": "x", "cost": None}], "cap": inf}]
    assert documents(pa.Table.from_pylist(rows)) == [
        {"kind": "a", "scores": [[0.5, "-inf"], ["nan", None]], "groups": [{"name": "x"}], "cap": "inf"}
    ]


def test_words_may_be_dictionaries_and_numbers_of_any_width() -> None:
    table = pa.table(
        {
            "kind": pa.array(["a", "b"]).dictionary_encode(),
            "total": pa.array([1, 2], pa.uint8()),
            "flag": [True, False],
            "scores": pa.array([[0.5], [1.5]], pa.list_(pa.float32(), 1)),
        }
    )
    assert documents(table) == [
        {"kind": "a", "total": 1, "flag": True, "scores": [0.5]},
        {"kind": "b", "total": 2, "flag": False, "scores": [1.5]},
    ]


def test_a_column_named_spec_holds_documents() -> None:
    parquet.write_table(pa.table({"spec": [LINE, None, LINE], "id": [1, 2, 3]}), "a.parquet")
    found = list(sources(["a.parquet"]))
    assert [item.place for item in found] == [Place("a.parquet", row) for row in (1, 2, 3)]
    assert [isinstance(item, Task) and item.text == LINE for item in found] == [True, False, True]
    assert unread("a.parquet") == ["a.parquet:2: has null in the column 'spec'"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table({"spec": [1]}), "its column 'spec' must hold JSON as strings, not int64"),
        (pa.table({"successes": [1]}), "has neither a column 'spec' of JSON documents nor a column 'kind'"),
        (pa.table({"kind": ["a"], "when": [b"x"]}), "its column 'when' holds binary, which no field of a spec can be"),
        (pa.table({"kind": ["a"], "w": pa.array([[(1, 2)]], pa.map_(pa.int8(), pa.int8()))}), "its column 'w' holds"),
        (pa.table({"kind": ["a"], "w": [[{"x": b"x"}]]}), "its column 'w' holds list<"),
        (pa.table([pa.array(["a"])] * 2, names=["kind", "kind"]), "has two columns named 'kind'"),
    ],
)
def test_a_table_that_can_hold_no_specs_is_told_once_and_the_rest_goes_on(table: pa.Table, words: str) -> None:
    parquet.write_table(table, "a.parquet")
    write("b.yaml")
    [message] = unread("a.parquet", "b.yaml")
    assert message.startswith("a.parquet: ") and words in message
    assert places("a.parquet", "b.yaml") == ["a.parquet", "b.yaml"]


def test_a_table_beside_specs_that_is_their_data_is_no_source_of_a_folder() -> None:
    write("d/a.yaml")
    parquet.write_table(pa.table({"successes": [1, 2]}), "d/history.parquet")
    parquet.write_table(pa.table({"spec": [LINE]}), "d/specs.parquet")
    assert places("d") == ["d/a.yaml", "d/specs.parquet:1"]
    assert sources(["d"]).expected() == 2


def test_a_broken_table_is_told_once_and_the_rest_goes_on() -> None:
    words = [f'{LINE[:-1]}, "seed": {number * 7919 % 1009}}}' for number in range(1000)]
    parquet.write_table(pa.table({"spec": words}), "whole.parquet", use_dictionary=False, write_page_checksum=True)
    data = Path("whole.parquet").read_bytes()
    write("z.yaml")
    flipped = bytearray(data)
    flipped[len(data) // 4] ^= 255
    for number, broken in enumerate((b"", b"PAR1", data[:-1], data[len(data) // 2 :], b"x" * 1000, bytes(flipped))):
        Path("a.parquet").write_bytes(broken)
        found = list(sources(["a.parquet", "z.yaml"]))
        assert [type(item) for item in found] == [Unread, Task], number
        assert "a.parquet: is not a .parquet file that pyarrow can read" in str(getattr(found[0], "error", None))


def test_rows_whose_text_is_not_utf8_are_told_one_by_one() -> None:
    words = pa.array([LINE.encode(), b"\xff", LINE.encode()]).view(pa.string())
    parquet.write_table(pa.table({"spec": words}), "a.parquet")
    assert unread("a.parquet") == ["a.parquet:2: is not UTF-8 text"]
    assert places("a.parquet") == ["a.parquet:1", "a.parquet:2", "a.parquet:3"]


def test_a_table_is_streamed_and_memory_stays_level() -> None:
    words = pa.array([json.dumps({"a": "x" * 10_000, "n": number}) for number in range(10_000)])
    parquet.write_table(pa.table({"spec": words}), "a.parquet", row_group_size=10_000, use_dictionary=False)
    del words
    before = pa.total_allocated_bytes()
    most = count = 0
    for _ in sources(["a.parquet"]):
        most = max(most, pa.total_allocated_bytes() - before)
        count += 1
    assert count == 10_000
    assert most < 50e6, "of the 100 MB that there are"


def test_without_pyarrow_a_named_table_is_refused_and_one_in_a_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pa.table({"spec": [LINE]}), "a.parquet")
    write("b.yaml")
    imported = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(eq.UnsupportedError, match=r"pip install 'equipoise\[parquet\]'"):
        sources(["a.parquet"])
    assert unread(".") == ["a.parquet: Parquet files need pyarrow: pip install 'equipoise[parquet]'"]
    assert places(".") == ["a.parquet", "b.yaml"]
    assert sources(["."]).expected() == 2


# -- how many ------------------------------------------------------------------------------------------------------


def test_documents_are_counted_without_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    write("d/a.yaml", "d/e/b.json")
    write("d/c.jsonl", text=f"{LINE}\n" * 3 + LINE)
    write("d/d.jsonl", text=f"{LINE}\n" * 5)
    write("d/empty.jsonl", text="")
    parquet.write_table(pa.table({"spec": [LINE] * 7}), "d/f.parquet")
    Path("d/g.parquet").write_bytes(b"broken")
    os.symlink("nothing", "d/h.jsonl")
    assert sources(["d", "d/a.yaml"]).expected() == 2 + 4 + 5 + 0 + 7 + 1 + 1 == len(places("d"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert sources(["d", "-"]).expected() is None


# -- places --------------------------------------------------------------------------------------------------------


def test_the_key_of_a_place_is_its_own_and_survives_json() -> None:
    different = [
        Place("a"),
        Place("b"),
        Place("a", 1),
        Place("a", 11),
        Place("1 a"),
        Place("a", None, {"x": 1}),
        Place("a", None, {"x": 1.0}),
        Place("a", None, {"x": True}),
        Place("a", None, {"x": "1"}),
        Place("a", None, {"x": None}),
        Place("a", 1, {"x": 1, "y": 2}),
        Place("a", 1, {"y": 2, "x": 1}),
        Place('a[["x", 1]]'),
        Place("a", None, {}),
        Place("ü\n", 3, {"x": 1e300}),
        Place("a", None, {"x": "\ud800"}),
        Place("\udcff"),
    ]
    assert len({place.key() for place in different}) == len(different)
    for place in different:
        document = json.loads(json.dumps(place.document()))
        again = Place(document["file"], document.get("line"), document.get("sweep"))
        assert again == place and again.key() == place.key() and len(place.key()) == 16


def test_the_digest_of_a_task_changes_with_its_text() -> None:
    one, same, other = (Task(Place(file), text, Path()) for file, text in (("a", "x"), ("b", "x"), ("a", "y")))
    assert one.digest() == same.digest() != other.digest() and len(one.digest()) == 8
    errors = [Unread(Place("a"), eq.SpecError(text)).digest() for text in ("x", "x", "y")]
    assert errors[0] == errors[1] != errors[2] and len(errors[0]) == 8


def test_keys_and_digests_are_the_same_in_every_version() -> None:
    """A batch that is gone on with years later still knows what it has."""
    assert Place("d/a.jsonl", 7, {"most": 4}).key().hex() == "748657e465c281bd3acc74667bd49846"
    assert Task(Place("a"), LINE, Path()).digest().hex() == "e9572c19abfe35a2"
