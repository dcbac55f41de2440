"""Lines of results and failures: what is written is what is read back, however odd, and nothing else is read."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.clients.batch import lines
from equipoise.clients.batch.lines import Broken, Failed, Solved, failure_line, read_failure, read_result, result_line
from equipoise.clients.batch.tasks import Place

from .results import document, failed, solved, task

BAIT = (
    '"certificate": {"status": "optimal", "gap": 0, "seconds": 0}, "check": null, "digest": "0000000000000000"}',
    '", "certificate": {',
    '{"file": "a", "kind": "b", "',
    '"}\n',
    "\\",
    "[{",
)
"""Texts that look like other parts of a line."""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(BAIT)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(texts | st.sampled_from(["certificate", "check", "digest", "file"]), below, max_size=3)
    ),
    max_leaves=8,
)
certificates = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["optimal", "feasible"]),
        "gap": st.just("inf") | st.floats(0, allow_nan=False, allow_infinity=False) | st.just(0),
        "seconds": st.floats(0, 1e9),
        "notes": st.lists(texts, max_size=3),
    }
)
places = st.builds(
    Place,
    texts | st.just("\udcff.yaml"),
    st.none() | st.integers(1, 2**40),
    st.none() | st.dictionaries(texts, scalars, max_size=3),
)
digests = st.binary(min_size=8, max_size=8)


@settings(max_examples=400, deadline=None)
@given(places, digests, texts | st.none(), values, certificates, values, st.booleans())
def test_a_result_is_read_back_as_it_was_whatever_its_plan_says(
    place: Place, digest: bytes, name: str | None, plan: Any, certificate: Any, check: Any, compact: bool
) -> None:
    body = {"kind": "a_kind", "name": name, "plan": plan, "certificate": certificate, "check": check}
    data = json.dumps(body, separators=(",", ":") if compact else None).encode()
    gap = float(certificate["gap"])
    written = Solved(place, digest, data, "a_kind", certificate["status"], gap, certificate["seconds"])
    line = result_line(written)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert json.loads(line) == {**place.document(), **body, "digest": digest.hex()}
    read = read_result(line)
    assert read == replace(written, body=b"") and read.place.key() == place.key()


def test_the_plan_of_a_line_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    line = result_line(solved(task(3, point={"a.b": "}{\"', ", "c": 1.5})))
    expected = read_result(line)

    def slow(_: bytes) -> dict[str, Any]:
        raise AssertionError("the whole line was parsed")

    monkeypatch.setattr(lines, "document_of", slow)
    assert read_result(line) == expected


def test_a_certificate_inside_a_plan_is_not_taken_for_the_plans_own() -> None:
    inner = {"certificate": {"status": "feasible", "gap": 1.0, "seconds": 9.0}, "check": None, "digest": "0" * 16}
    for plan in (inner, {"a": inner}, [inner], json.dumps(inner)):
        body = document(1, plan=plan)
        del body["certificate"], body["check"]
        line = result_line(replace(solved(task(1)), body=json.dumps(body).encode()))
        with pytest.raises(Broken, match="no kind and certificate"):
            read_result(line)


GOOD = result_line(solved(task(3, point={"most": 1})))


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b"\n", "not JSON"),
        (b"null\n", "not a JSON object"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"\0" * 50 + b"\n", "not JSON"),
        (GOOD.replace(b'"rollouts": [3, 6]', b"\0" * 18), "not JSON"),
        (GOOD[:-3] + b"\n", "not JSON"),
        (GOOD[:200] + GOOD, "not JSON"),
        (GOOD.replace(b'"file": "', b'"file": 3, "x": "'), "which spec"),
        (GOOD.replace(b'"line": 3', b'"line": true'), "which spec"),
        (GOOD.replace(b'"line": 3', b'"line": "3"'), "which spec"),
        (GOOD.replace(b'"sweep": {"most": 1}', b'"sweep": [1]'), "which spec"),
        (GOOD.replace(b'"gap": 0.0', b'"gap": NaN'), "gap or seconds below 0"),
        (GOOD.replace(b'"gap": 0.0', b'"gap": -1'), "gap or seconds below 0"),
        (GOOD.replace(b'"gap": 0.0', b'"gap": "0"'), "gap '0'"),
        (GOOD.replace(b'"gap": 0.0', b'"gap": true'), "gap True"),
        (GOOD.replace(b'"gap": 0.0', b'"gap": 1' + b"0" * 400), "gap 1000"),
        (GOOD.replace(b'"status": "optimal"', b'"status": 1'), "without a status"),
        (GOOD.replace(b'"digest": "', b'"digest": "0'), "no digest"),
        (GOOD.replace(b'"digest": "', b'"digest": "x'), "no digest"),
        (GOOD.replace(b'"digest"', b'"other"'), "no digest"),
        (GOOD.replace(b'"certificate"', b'"no \\"certificate"'), "no kind and certificate"),
        (failure_line(failed(task(3))), "no kind and certificate"),
    ],
)
def test_what_is_no_result_is_told_from_one(line: bytes, match: str) -> None:
    with pytest.raises(Broken, match=match):
        read_result(line)


@settings(max_examples=300, deadline=None)
@given(
    places, digests, texts | st.none(), texts, texts, st.integers(1, 130), st.dictionaries(texts, values, max_size=3)
)
def test_a_failure_is_read_back_as_it_was(
    place: Place, digest: bytes, kind: str | None, type: str, reason: str, code: int, details: dict[str, Any]
) -> None:
    written = Failed(place, digest, kind, None, type, reason, code, details)
    line = failure_line(written)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    read = read_failure(line)
    fixed = ("file", "line", "sweep", "kind", "name", "type", "reason", "exit_code", "digest")
    assert read == replace(written, details={name: details[name] for name in details if name not in fixed})
    assert read.place.key() == place.key()


@pytest.mark.parametrize(
    ("old", "new"), [(b'"exit_code": 3', b'"exit_code": true'), (b'"type"', b'"types"'), (b'"kind"', b'"kind": 3, "k"')]
)
def test_what_is_no_failure_is_told_from_one(old: bytes, new: bytes) -> None:
    line = failure_line(failed(task(3)))
    assert old in line
    with pytest.raises(Broken, match="no kind, name, type, reason and exit_code"):
        read_failure(line.replace(old, new))


def test_numbers_that_are_not_finite_are_strings_in_a_failure() -> None:
    line = failure_line(failed(task(1), details={"change": {"a": math.inf, "b": [-math.inf, math.nan, 1.0]}}))
    assert json.loads(line, parse_constant=pytest.fail)["change"] == {"a": "inf", "b": ["-inf", "nan", 1.0]}
