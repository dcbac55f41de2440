"""Every bad spec is refused with the place, the field and the remedy; none crashes, none is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from safetensors.numpy import save_file

import equipoise as eq

CASES: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(Path(__file__).with_name("bad_specs.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the bad specs refer to, sound ones and broken ones."""
    (tmp_path / "history.csv").write_text("successes,trials\n1,8\n2,8\n")
    (tmp_path / "history.txt").write_text("1 2\n")
    (tmp_path / "other.csv").write_text("wins,trials\n1,8\n")
    (tmp_path / "words.csv").write_text("successes,trials\n1,8\nmany,8\n")
    (tmp_path / "ragged.csv").write_text("successes,trials\n1,8\n1,8,9\n")
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 64)
    save_file({"successes": np.array([1, 2]), "trials": np.array([8, 8])}, tmp_path / "batch.safetensors")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with (tmp_path / "huge.npy").open("wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": (2**28,)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(b"\0" * 64)
    return tmp_path


def text(case: dict[str, Any]) -> str:
    if case["about"] == "nesting without end":
        return "kind: " + "[" * 2000 + "]" * 2000
    return case["spec"]


def test_there_are_enough_of_them_and_each_is_another() -> None:
    assert len({case["about"] for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=[case["about"] for case in CASES])
def test_a_bad_spec_is_refused_in_so_many_words(case: dict[str, Any], folder: Path) -> None:
    path = folder / "spec.yaml"
    path.write_text(text(case))
    with pytest.raises(eq.SpecError) as caught:
        eq.load(path)
    message = str(caught.value)
    assert message.startswith(str(folder)), message
    for words in case["says"]:
        assert words in message, message


def test_a_missing_spec_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(eq.SpecError, match=r"nowhere\.yaml: No such file"):
        eq.load(tmp_path / "nowhere.yaml")


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_bytes(b"kind: \xff\xfe")
    with pytest.raises(eq.SpecError, match="is not UTF-8"):
        eq.load(tmp_path / "spec.yaml")


def test_json_errors_have_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"kind": "rollout_budgets", "prompts": {"successes": [1], "trials": [-1]}}, indent=1))
    with pytest.raises(eq.SpecError, match=r"spec\.json:8: prompts\.trials\[0\]: must be at least 0, got -1"):
        eq.load(path)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(eq.SpecError) as caught:
        eq.RolloutBudgets(prompts={"successes": [1.5], "trials": [-8]}, total=-1, leats=3)
    assert [problem.field for problem in caught.value.problems] == [
        "prompts.successes[0]",
        "prompts.trials[0]",
        "total",
        "leats",
    ]


def test_a_remote_spec_may_not_read_files() -> None:
    from equipoise.specs.reading import parse

    with pytest.raises(eq.SpecError, match="files are not read for a remote caller"):
        parse("kind: rollout_budgets\nprompts: {file: history.csv}\ntotal: 8\n", "<request>", None)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ({"kind": "rollout_budgets"}, "load takes a path, got dict"),
        (b"spec.yaml", "load takes a path, got bytes"),
        ("a\0b.yaml", "is not a path that this system allows"),
        ("\ud800.yaml", "is not a path that this system allows"),
        ("x" * 5000, "File name too long"),
    ],
    ids=["dict", "bytes", "NUL", "surrogate", "long"],
)
def test_what_is_no_path_is_told(path: Any, words: str) -> None:
    with pytest.raises(eq.SpecError, match=words):
        eq.load(path)


def test_a_truncated_json_file_is_not_taken_for_yaml(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"kind": "rollout_budgets",\n "total": ')
    with pytest.raises(eq.SpecError, match=r"spec\.json:2: not valid JSON: .* \(line 2, column"):
        eq.load(tmp_path / "spec.json")
