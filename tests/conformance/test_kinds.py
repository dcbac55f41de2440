"""What every kind of task owes its users, held against its shipped examples."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise as eq
from equipoise.solvers.baselines import baselines, compare

KINDS = sorted(eq.kinds())
EXAMPLES = Path(eq.__file__).parent / "specs" / "examples"


@pytest.fixture(params=KINDS)
def spec(request: pytest.FixtureRequest) -> eq.Spec[Any]:
    """The small example of each kind."""
    return eq.load(EXAMPLES / "minimal" / f"{request.param}.yaml")


def same(one: eq.Plan, other: eq.Plan) -> bool:
    return one == other and one.certificate.objective == other.certificate.objective


@pytest.mark.parametrize("kind", KINDS)
def test_the_real_example_is_solved_to_a_proven_optimum(kind: str) -> None:
    spec = eq.load(EXAMPLES / f"{kind}.yaml")
    plan = eq.solve(spec, "exact", time_limit=120)
    assert plan.certificate.status == "optimal"
    result = eq.check(spec, plan)
    assert result.ok, result.problems
    assert result.objective == pytest.approx(plan.certificate.objective, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_real_example_beats_what_people_do_today(kind: str) -> None:
    spec = eq.load(EXAMPLES / f"{kind}.yaml")
    compared = compare(spec, eq.solve(spec, "exact", time_limit=120))
    assert compared[0].gain > 0 or compared[0].broken > 0  # the most common
    for baseline in compared:
        assert baseline.gain >= 0 or baseline.broken > 0, baseline.name
    assert any(baseline.gain > 0.001 for baseline in compared if not baseline.broken) or all(b.broken for b in compared)


def test_the_small_example_is_solved_and_checked(spec: eq.Spec[Any]) -> None:
    plan = eq.solve(spec, "exact")
    assert plan.certificate.status == "optimal"
    assert plan.certificate.stopped == "solved"
    assert eq.check(spec, plan).ok


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".safetensors"])
def test_a_saved_bundle_is_read_back_whole(spec: eq.Spec[Any], suffix: str, tmp_path: Path) -> None:
    plan, path = eq.solve(spec), tmp_path / f"bundle{suffix}"
    eq.save(plan, path, spec=spec)
    bundle = eq.load_bundle(path)
    assert bundle.spec == spec
    assert same(bundle.plan, plan)
    assert bundle.plan.certificate.spec_digest == spec.digest()
    assert eq.check(spec, bundle.plan).ok
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    if suffix == ".json":
        json.loads(path.read_text(), parse_constant=pytest.fail)


def test_the_same_spec_gets_the_same_plan(spec: eq.Spec[Any]) -> None:
    assert same(eq.solve(spec, seed=3), eq.solve(spec, seed=3))


def test_a_session_answers_like_a_solve(spec: eq.Spec[Any]) -> None:
    with eq.session(spec, "exact") as session:
        for _ in range(3):
            assert session.step().certificate.objective == pytest.approx(
                eq.solve(spec, "exact").certificate.objective, rel=1e-9, abs=1e-12
            )
    with pytest.raises(eq.EquipoiseError, match="closed"):
        session.step()


def test_a_bad_step_leaves_the_session_as_it_was(spec: eq.Spec[Any]) -> None:
    with eq.session(spec) as session:
        before = session.step()
        with pytest.raises(eq.SpecError, match="no_such_field"):
            session.step(no_such_field=1)
        assert same(session.step(), before)


def test_specs_and_plans_travel_between_processes(spec: eq.Spec[Any]) -> None:
    plan = eq.solve(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert same(pickle.loads(pickle.dumps(plan)), plan)


def test_the_digest_is_that_of_the_content(spec: eq.Spec[Any]) -> None:
    again = spec.replace()
    assert again is not spec
    assert again.digest() == spec.digest()
    assert spec.replace(name="another").digest() != spec.digest()


def test_the_plan_repeats_the_name_of_its_spec(spec: eq.Spec[Any]) -> None:
    assert eq.solve(spec.replace(name="step 12")).name == "step 12"


def test_arrays_are_read_only(spec: eq.Spec[Any]) -> None:
    def arrays(value: Any) -> list[np.ndarray[Any, Any]]:
        if isinstance(value, dict):
            return [array for entry in value.values() for array in arrays(entry)]
        return [value] if isinstance(value, np.ndarray) else []

    assert all(not array.flags.writeable for array in arrays(spec.fields()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", ["minimal", "."])
def test_the_fast_method_gives_a_plan_that_check_proves(kind: str, size: str) -> None:
    spec = eq.load(EXAMPLES / size / f"{kind}.yaml")
    plan = eq.solve(spec, "fast")
    assert plan.certificate.method.startswith("fast: equipoise ")
    assert plan.certificate.gap <= 0.05
    result = eq.check(spec, plan)
    assert result.ok, result.problems
    assert same(plan, eq.solve(spec, "fast", threads=2))
    exact = eq.solve(spec, "exact").certificate
    room = 1e-9 * abs(exact.objective)
    sign = 1 if exact.sense == "maximise" else -1
    assert sign * plan.certificate.objective <= sign * exact.objective + room
    assert sign * plan.certificate.bound >= sign * exact.objective - room


@pytest.mark.parametrize("method", ["auto", "exact", "fast"])
def test_the_algorithm_and_the_program_agree(spec: eq.Spec[Any], method: Any) -> None:
    backend = "flow" if spec.kind == "expert_assignment" else "highs"
    program = eq.solve(spec, "exact", backend=backend).certificate
    plan = eq.solve(spec, method)
    assert plan.certificate.objective == pytest.approx(program.objective, rel=max(1e-9, plan.certificate.gap))


@pytest.mark.parametrize("method", ["auto", "exact", "fast"])
@pytest.mark.parametrize("limit", [0.0, 1e-6, 1e-3])
def test_without_time_there_is_a_plan_that_holds_or_a_timeout(spec: eq.Spec[Any], method: Any, limit: float) -> None:
    try:
        plan = eq.solve(spec, method, time_limit=limit)
    except eq.SolveTimeout:
        return
    result = eq.check(spec, plan)
    assert result.ok, result.problems


def test_the_fast_method_runs_no_backend(spec: eq.Spec[Any]) -> None:
    with pytest.raises(eq.UnsupportedError, match="'fast' runs no backend"):
        eq.solve(spec, "fast", backend="highs")


def test_every_field_says_what_it_is(spec: eq.Spec[Any]) -> None:
    """The schema is what editors show: each field of a spec and of its tables has a description."""
    schema = type(spec).model_json_schema()
    for owner in (schema, *schema.get("$defs", {}).values()):
        forms = owner.get("anyOf", [owner])  # a table may be columns, rows or a file
        columns = next(form for form in forms if "properties" in form)
        for name, field in columns["properties"].items():
            assert "description" in field or "$ref" in field or name == "kind", f"{owner['title']}.{name}"


def test_baselines_are_plans_of_the_kind(spec: eq.Spec[Any]) -> None:
    rules = baselines(spec.kind)
    assert rules
    for rule in rules.values():
        plan = rule(spec)
        assert type(plan) is type(spec).plan
        assert not plan.certified


def test_a_plan_without_certificate_says_so(spec: eq.Spec[Any]) -> None:
    plan = next(iter(baselines(spec.kind).values()))(spec)
    with pytest.raises(eq.EquipoiseError, match="no certificate"):
        _ = plan.certificate


FORGED = [
    ("certificate", "objective", float("inf")),
    ("certificate", "objective", float("nan")),
    ("certificate", "bound", float("nan")),
    ("certificate", "gap", float("nan")),
    ("certificate", "gap", 0.5),
    ("certificate", "violation", 1.0),
    ("certificate", "seconds", -1.0),
    ("certificate", "threads", 0),
    ("certificate", "sense", "sideways"),
    ("plan", "name", "of another step"),
]


@pytest.mark.parametrize(("part", "field", "value"), FORGED, ids=[f"{field}={value}" for _, field, value in FORGED])
def test_a_forged_bundle_is_refused_or_fails_the_check(
    spec: eq.Spec[Any], part: str, field: str, value: Any, tmp_path: Path
) -> None:
    path = tmp_path / "bundle.json"
    eq.save(eq.solve(spec), path, spec=spec)
    document = json.loads(path.read_text())
    document[part][field] = value
    path.write_text(json.dumps(document))
    assert not believed(spec, path)


def believed(spec: eq.Spec[Any], path: Path) -> bool:
    """Whether a bundle is read and passes the check."""
    try:
        return eq.check(spec, eq.load_bundle(path).plan).ok
    except eq.SpecError:
        return False


def test_a_plan_of_another_kind_fails_the_check(spec: eq.Spec[Any]) -> None:
    other = eq.load(EXAMPLES / "minimal" / f"{next(kind for kind in KINDS if kind != spec.kind)}.yaml")
    result = eq.check(spec, eq.solve(other))
    assert not result.ok
    assert "the plan is one of" in result.problems[0]


@pytest.mark.parametrize("suffix", [".lp", ".mps", ".nl"])
def test_the_program_is_exported_and_another_reader_finds_the_same_optimum(
    spec: eq.Spec[Any], suffix: str, tmp_path: Path
) -> None:
    import highspy

    from equipoise.solvers.export import export

    path = tmp_path / f"model{suffix}"
    export(spec, path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    if suffix == ".nl":  # HiGHS does not read these
        assert path.read_text().startswith("g3")
        return
    model = highspy.Highs()
    model.silent()
    assert model.readModel(str(path)) == highspy.HighsStatus.kOk
    model.setOptionValue("mip_rel_gap", 0.0)
    model.run()
    found = model.getInfo().objective_function_value
    assert found == pytest.approx(aim(spec), rel=1e-6)


def aim(spec: eq.Spec[Any]) -> float:
    """The optimum of the compiled program itself, which for lexicographic kinds is its last objective."""
    from equipoise.solvers.backends.highs import HighsBackend
    from equipoise.solvers.control import Control, Options
    from equipoise.solvers.export import compiled

    return HighsBackend().solve(compiled(spec), Options("exact"), Control()).objective
