"""A document with a sweep stands for a spec per point: which points, what is refused, and what a spec says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import equipoise as eq
from equipoise.specs.reading import TaskDocument, parse
from equipoise.specs.sweeps import at, points

SPEC = {"kind": "rollout_budgets", "prompts": {"successes": [1, 4], "trials": [8, 8]}, "total": 12}


def swept(sweep: Any, **fields: Any) -> dict[str, Any]:
    return {**SPEC, **fields, "sweep": sweep}


def told(sweep: Any, **fields: Any) -> str:
    with pytest.raises(eq.SpecError) as caught:
        points(swept(sweep, **fields))
    return str(caught.value)


def test_the_points_are_the_product_in_the_order_written_the_last_field_fastest() -> None:
    grid = list(points(swept({"most": [32, 64], "prior.alpha": [0.5, 1], "value": ["posterior"]})))
    assert grid == [
        {"most": 32, "prior.alpha": 0.5, "value": "posterior"},
        {"most": 32, "prior.alpha": 1, "value": "posterior"},
        {"most": 64, "prior.alpha": 0.5, "value": "posterior"},
        {"most": 64, "prior.alpha": 1, "value": "posterior"},
    ]
    assert [list(point) for point in grid] == [["most", "prior.alpha", "value"]] * 4


def test_every_kind_of_scalar_can_be_swept() -> None:
    values = [True, False, 1, 0, -2.5, "1", "", None]
    assert [point["total"] for point in points(swept({"total": values}))] == values


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ([32], "sweep: must map fields to lists of their values"),
        ({}, "sweep: must map fields to lists"),
        ({"most": 32}, "sweep.most: must be a list of at least one value, got 32"),
        ({"most": []}, "sweep.most: must be a list of at least one value"),
        ({"most": [1, [2]]}, "sweep.most[1]: must be a number, a string, true, false or null, got [2]"),
        ({"most": [1, {"a": 1}]}, "sweep.most[1]: must be a number"),
        ({"most": [float("nan")]}, "sweep.most[0]: must be finite, got nan"),
        ({"most": [0.5, float("inf")]}, "sweep.most[1]: must be finite"),
        ({"most": [10**5000]}, "sweep.most[0]: must be within ±2⁶³"),
        ({"value": ["x" * 1001]}, "sweep.value[0]: must have at most 1,000 characters"),
        ({"most": [1, 2, 1]}, "sweep.most[2]: is there twice: 1"),
        ({"most": [1, 1.0]}, "sweep.most[1]: is there twice: 1.0"),
        ({"kind": ["a"]}, "sweep.kind: cannot be swept"),
        ({"name": ["a"]}, "sweep.name: cannot be swept"),
        ({"sweep.most": [1]}, "cannot be swept"),
        ({"prior..alpha": [1]}, "is not the dotted name of a field"),
        ({"": [1]}, "is not the dotted name of a field"),
        ({3: [1]}, "must name fields by strings, got 3"),
        ({"prior": ["fit"], "prior.alpha": [1]}, "lies inside prior, which is swept too"),
        ({"total.alpha": [1]}, "sweep.total.alpha: lies inside total, which must be a set of named fields, got 12"),
        ({"prompts.successes.a": [1]}, "lies inside prompts.successes, which must be a set of named fields"),
        ({"most": list(range(400)), "total": list(range(400))}, "sweep: has more than 100,000 points"),
        ({"most": list(range(100_001))}, "sweep.most: has more than 100,000 values"),
    ],
)
def test_a_broken_sweep_is_refused_in_so_many_words(sweep: Any, words: str) -> None:
    assert words in told(sweep)


def test_one_hundred_thousand_points_are_not_too_many() -> None:
    assert sum(1 for _ in points(swept({"most": list(range(400)), "total": list(range(250))}))) == 100_000


def test_true_is_another_value_than_one() -> None:
    assert [point["a"] for point in points(swept({"a": [1, True]}))] == [1, True]


def test_a_point_is_put_in_place_and_the_document_stays_as_it_was() -> None:
    document = swept({"most": [1]}, prior={"alpha": 1.0, "beta": 2.0})
    before = json.dumps(document)
    made = at(document, {"prior.alpha": 0.5, "most": 4, "options.deep.er": None})
    assert made == {**SPEC, "prior": {"alpha": 0.5, "beta": 2.0}, "most": 4, "options": {"deep": {"er": None}}}
    assert json.dumps(document) == before


def test_a_sweep_that_is_loaded_as_one_spec_says_who_solves_it(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(json.dumps(SPEC)[:-1] + ',\n "sweep":\n  {"most": [4]}}')
    with pytest.raises(eq.SpecError, match=r"spec\.yaml:3: sweep: stands for a spec per point.*`equipoise batch`"):
        eq.load(tmp_path / "spec.yaml")


def test_each_point_of_a_document_is_a_spec_of_its_own() -> None:
    document = TaskDocument(json.dumps(swept({"total": [8, 16], "prior.alpha": [1]}, prior={"beta": 1})), "spec.json")
    grid = list(document.points() or ())
    specs: list[Any] = [document.spec(None, point) for point in grid]
    assert [(spec.total, spec.prior.alpha, spec.prior.beta) for spec in specs] == [(8, 1, 1), (16, 1, 1)]


def test_what_a_point_breaks_is_told_at_its_line_of_the_sweep() -> None:
    text = (
        "kind: rollout_budgets\nprompts: {successes: [1], trials: [8]}\ntotal: 8\nsweep:\n  most: [4]\n  total: [-1]\n"
    )
    document = TaskDocument(text, "spec.yaml")
    with pytest.raises(eq.SpecError, match=r"spec\.yaml:6: total: must be at least 0, got -1"):
        document.spec(None, {"most": 4, "total": -1})


def test_a_broken_sweep_is_told_by_file_and_line() -> None:
    with pytest.raises(eq.SpecError, match=r"^spec\.yaml:3: sweep\.most\[1\]: is there twice: 4$"):
        TaskDocument("kind: a\nsweep:\n  most: [4, 4]\n", "spec.yaml").points()
    with pytest.raises(eq.SpecError, match=r"^lines\.jsonl:7: sweep\.most: must be a list"):
        TaskDocument('{"kind": "a", "sweep": {"most": 4}}', "lines.jsonl", 7).points()


def test_a_document_without_a_sweep_has_no_points() -> None:
    assert TaskDocument(json.dumps(SPEC), "spec.json").points() is None
    assert TaskDocument("[1]", "spec.json").points() is None


def test_kind_and_name_are_known_of_a_document_that_is_no_spec() -> None:
    document = TaskDocument('{"kind": "nothing", "name": " a ", "x": 1}', "lines.jsonl", 3)
    assert (document.kind, document.name) == ("nothing", "a")
    with pytest.raises(eq.SpecError, match=r"^lines\.jsonl:3: kind: 'nothing' is not a kind of task"):
        document.spec(None)
    document = TaskDocument("kind: 7\nname: [a]\n", "spec.yaml")
    assert (document.kind, document.name) == (None, None)
    assert TaskDocument("[1]", "spec.yaml").kind is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"kind": ', "not valid JSON: Expecting value (column 10)"),
        ("kind: rollout_budgets", "not valid JSON: Expecting value (column 1)"),
        ('{"a": 1, "a": 2}', "not valid JSON: 'a' is given twice"),
        ('{"a": {"b": 1, "b": 2}}', "not valid JSON: 'b' is given twice"),
        ('{"a": NaN}', "not valid JSON: NaN is no number"),
        ('{"a": -Infinity}', "not valid JSON: -Infinity is no number"),
        ('{"a": ' + "1" * 5000 + "}", "not valid JSON: Exceeds the limit"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply"),
        ("", "not valid JSON: Expecting value"),
    ],
)
def test_a_line_is_strict_json_and_what_is_not_is_told_at_that_line(text: str, words: str) -> None:
    with pytest.raises(eq.SpecError) as caught:
        TaskDocument(text, "lines.jsonl", 12)
    assert str(caught.value).startswith("lines.jsonl:12: ") and words in str(caught.value)


def test_every_problem_of_a_line_is_told_at_that_line() -> None:
    document = TaskDocument(json.dumps({**SPEC, "total": -1, "leats": 3}), "lines.jsonl", 5)
    with pytest.raises(eq.SpecError) as caught:
        document.spec(None)
    assert [(problem.file, problem.line, problem.field) for problem in caught.value.problems] == [
        ("lines.jsonl", 5, "total"),
        ("lines.jsonl", 5, "leats"),
    ]


def test_a_task_is_the_very_spec_that_load_gives(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("successes,trials\n1,8\n4,8\n")
    text = "kind: rollout_budgets\nprompts: {file: history.csv}\ntotal: 8\n"
    (tmp_path / "spec.yaml").write_text(text)
    assert TaskDocument(text, "spec.yaml").spec(tmp_path) == eq.load(tmp_path / "spec.yaml")
    line = json.dumps(SPEC)
    assert TaskDocument(line, "lines.jsonl", 1).spec(None) == parse(line, "spec.json", None)


@pytest.mark.parametrize("lines", ["- 1\n", "-\n", "  a: 1\n", "[1,\n"])
def test_yaml_of_millions_of_values_is_refused_before_it_is_parsed(lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equipoise.specs.documents.YAML", None)
    with pytest.raises(eq.SpecError, match=r"spec\.yaml: holds more than 250,000 values"):
        TaskDocument("kind: a\nsweep:\n" + lines * 250_001, "spec.yaml")


def test_a_json_document_with_a_field_given_twice_says_so_and_flow_yaml_is_still_read() -> None:
    with pytest.raises(eq.SpecError, match=r"^spec\.json: 'a' is given twice$"):
        parse('{"a": 1, "a": 2}', "spec.json", None)
    with pytest.raises(eq.SpecError, match=r"^spec\.yaml:1: not valid YAML: .*duplicate key"):
        parse('{"a": 1, "a": 2, b: 3}', "spec.yaml", None)
    assert parse("{kind: rollout_budgets, prompts: {successes: [1], trials: [2]}, total: 4}", "s.yaml", None)
