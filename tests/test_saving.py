"""Plans on disk: whole or not there at all, and refused when they are not what they claim."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import equipoise as eq

SPEC = eq.RolloutBudgets(prompts={"successes": [3, 0, 8], "trials": [8, 8, 8]}, total=24, name="step 1")


@pytest.fixture(scope="module")
def plan() -> Any:
    return eq.solve(SPEC)


def test_a_plan_alone_is_read_back(plan: Any, tmp_path: Path) -> None:
    eq.save(plan, tmp_path / "plan.json")
    assert eq.load_plan(tmp_path / "plan.json") == plan
    assert eq.load_bundle(tmp_path / "plan.json").spec is None


def test_a_failed_write_leaves_the_old_file(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(eq.SpecError, match="cannot be written: No space left on device"):
        eq.save(plan, path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_a_folder_that_is_not_there_is_told(plan: Any, tmp_path: Path) -> None:
    with pytest.raises(eq.SpecError, match="cannot be written"):
        eq.save(plan, tmp_path / "nowhere" / "plan.json")


def test_another_format_is_refused(plan: Any, tmp_path: Path) -> None:
    with pytest.raises(eq.SpecError, match=r"cannot save as \.txt"):
        eq.save(plan, tmp_path / "plan.txt")


def broken(document: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    *path, last = place.split(".")
    inner = document
    for step in path:
        inner = inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return document


BROKEN = [
    ("plan", None, "it has no 'plan'"),
    ("plan", 3, "it has no 'plan'"),
    ("plan.kind", "rollouts", "not a kind of task"),
    ("plan.kind", None, "plan.kind: must name the kind of task"),
    ("plan.rollouts", [1, -2], "plan.rollouts[1]: must be at least 0"),
    ("plan.rollouts", {"file": "counts.npy"}, "files are not read for a remote caller"),
    ("plan.extra", 1, "plan.extra: is not a field"),
    ("certificate.gap", "wide", "certificate.gap"),
    ("certificate.status", "perfect", "certificate.status"),
    ("certificate.objective", None, "certificate.objective: is required"),
    ("spec.total", -1, "spec.total: must be at least 0"),
]


@pytest.mark.parametrize(("place", "value", "words"), BROKEN, ids=[f"{place}={value}" for place, value, _ in BROKEN])
def test_a_broken_bundle_is_refused(plan: Any, place: str, value: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    eq.save(plan, path, spec=SPEC)
    path.write_text(json.dumps(broken(json.loads(path.read_text()), place, value)))
    with pytest.raises(eq.SpecError) as caught:
        eq.load_bundle(path)
    assert words in str(caught.value)


def test_a_plan_for_another_spec_fails_the_check(plan: Any, tmp_path: Path) -> None:
    eq.save(plan, tmp_path / "plan.json", spec=SPEC)
    saved = eq.load_plan(tmp_path / "plan.json")
    result = eq.check(SPEC.replace(most=100), saved)
    assert result.problems == ("certificate.spec_digest is that of another spec",)


def test_a_spec_file_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("kind: rollout_budgets\n")
    with pytest.raises(eq.SpecError, match="is not a saved plan"):
        eq.load_plan(tmp_path / "spec.yaml")


def test_a_plan_is_not_saved_with_a_spec_of_another_kind(plan: Any, tmp_path: Path) -> None:
    other = eq.ExpertAssignment(scores=[[1.0, 2.0]], experts_per_token=1)
    with pytest.raises(eq.SpecError, match="one of rollout_budgets, and the spec one of expert_assignment"):
        eq.save(plan, tmp_path / "plan.json", spec=other)
    with pytest.raises(eq.SpecError, match="save takes a plan, got dict"):
        eq.save({}, tmp_path / "plan.json")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("[" * 100_000, "is nested too deeply|is not a valid"),
        ('{"plan":' + '{"x":' * 900 + "1" + "}" * 901, "."),
        ('{"plan": {"kind": "rollout_budgets", "rollouts": {"$tensor": [1]}}}', r"the tensor \[1\] is not there"),
        ('{"plan": {"kind": "rollout_budgets", "price": NaN}}', "NaN is no number"),
    ],
    ids=["deep list", "deep mapping", "tensor", "NaN"],
)
def test_hostile_metadata_is_refused(metadata: str, words: str, tmp_path: Path) -> None:
    save_file({"x": np.zeros(1)}, tmp_path / "plan.safetensors", metadata={"equipoise": metadata})
    with pytest.raises(eq.SpecError, match=words):
        eq.load_plan(tmp_path / "plan.safetensors")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_json_has_not_are_refused(plan: Any, constant: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    eq.save(plan, path)
    document = json.loads(path.read_text())
    document["certificate"]["objective"] = float(constant)
    path.write_text(json.dumps(document))
    with pytest.raises(eq.SpecError, match=f"plan.json: not valid JSON: {constant} is no number"):
        eq.load_plan(path)


def test_a_link_and_the_mode_of_its_target_stay(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "real.json").chmod(0o640)
    (tmp_path / "link.json").symlink_to("real.json")
    eq.save(plan, tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").stat().st_mode & 0o777 == 0o640
    assert eq.load_plan(tmp_path / "real.json") == plan


def test_a_name_that_no_file_can_have_is_told(plan: Any, tmp_path: Path) -> None:
    with pytest.raises(eq.SpecError, match="is not a path that this system allows"):
        eq.save(plan, f"{tmp_path}/a\0b.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(eq.SpecError, match="not a regular file"):
        eq.save(plan, tmp_path / "folder.json")
