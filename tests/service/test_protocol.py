"""The protocol: its stubs are those of its definition, and versions of it that differ understand each other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import equipoise as eq
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import generate, wire
from equipoise.solvers.control import Options
from equipoise.specs.certificate import Certificate

ROOT = Path(__file__).parents[2]
PROTOCOL = ROOT / "server" / "protocol"
OLD = Path(__file__).parent / "v1_0"
"""Messages and the definition as they were in the first version."""
EXAMPLES = sorted((ROOT / "specs" / "examples").glob("**/*.yaml"))


def test_the_stubs_are_those_of_the_definition(tmp_path: Path) -> None:
    # In a process of its own: protoc and ortools hold two different protobufs, and abort when they meet.
    generating = [sys.executable, "-m", "equipoise.server.protocol.generate", str(tmp_path)]
    subprocess.run(generating, check=True, timeout=60, cwd=tmp_path)
    for name in (stub for made in generate.DEFINITIONS for stub in made.stubs):
        assert (tmp_path / name).read_text() == (ROOT / "server" / name).read_text(), f"{name}: run `make protocol`"


@pytest.mark.parametrize("command", [["lint"], ["breaking", "--against", str(OLD / "equipoise.binpb")]])
def test_the_definition_is_well_formed_and_breaks_no_older_caller(command: list[str]) -> None:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert buf is not None, "buf comes with the development dependencies"
    found = subprocess.run([buf, command[0], str(PROTOCOL), *command[1:]], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_certificate_has_the_fields_of_the_python_class() -> None:
    assert list(pb.Certificate.DESCRIPTOR.fields_by_name) == list(Certificate.model_fields)


def test_a_request_of_the_first_version_is_read_as_it_was_meant() -> None:
    message = pb.SolveRequest.FromString((OLD / "solve_request.bin").read_bytes())
    spec = wire.read_task(message.spec, wire.Limits())
    assert spec == eq.load(ROOT / "specs" / "examples" / "minimal" / "rollout_budgets.yaml")
    assert wire.read_options(message.options) == Options("exact", None, 30.0, 1e-6, 7, 2)


def test_an_answer_of_the_first_version_still_holds() -> None:
    message = pb.SolveResponse.FromString((OLD / "solve_response.bin").read_bytes())
    plan = wire.read_plan(message.plan, wire.Limits())
    spec = eq.load(ROOT / "specs" / "examples" / "minimal" / "rollout_budgets.yaml")
    assert eq.check(spec, plan).problems == ()
    assert plan.certificate.status == "optimal"


def test_fields_of_a_later_version_are_ignored() -> None:
    later = b"".join(wire.field(1000, [b"a field that is not there yet"]))
    raw = (OLD / "solve_request.bin").read_bytes() + later
    assert wire.read_task(pb.SolveRequest.FromString(raw).spec, wire.Limits()).kind == "rollout_budgets"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_spec_and_its_plan_come_back_as_they_went(path: Path) -> None:
    spec = eq.load(path)
    sent = pb.Document.FromString(b"".join(wire.spec_fields(spec)))
    back = wire.read_task(sent, wire.Limits())
    assert back == spec
    assert back.digest() == spec.digest()
    plan = eq.solve(spec)
    returned = wire.read_plan(pb.Plan.FromString(b"".join(wire.plan_fields(plan))), wire.Limits())
    assert returned == plan
    assert returned.certificate == plan.certificate


@pytest.mark.parametrize("dtype", [name for name in wire.DTYPES if name != "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 2), (0, 4), (5,), (), (70, 80)], ids=str)
def test_tensors_of_every_dtype_and_shape_travel(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(wire.DTYPES[dtype])
    sent = pb.Document.FromString(b"".join(wire.document({"values": array})))
    (back,) = wire.read_document(sent, wire.Limits()).values()
    assert back.dtype == array.dtype and back.shape == shape
    assert np.array_equal(back, array)
    assert not back.flags.writeable


def test_a_large_array_goes_out_without_a_copy() -> None:
    scores = np.arange(2.0 * wire.SMALL).reshape(2, -1)
    (view,) = [part for part in wire.document({"scores": scores}) if isinstance(part, memoryview)]
    assert np.shares_memory(np.asarray(view), scores)


def test_bfloat16_is_widened_to_the_same_values() -> None:
    import torch

    values = torch.tensor([1.0, -0.3, 1e30, float("-inf")], dtype=torch.bfloat16)
    tensor = pb.Tensor(dtype="bfloat16", shape=[4], data=values.view(torch.int16).numpy().tobytes())
    document = pb.Document(json='{"values": {"$tensor": "v"}}', tensors={"v": tensor})
    assert wire.read_document(document, wire.Limits())["values"].tolist() == values.float().tolist()


def _tensor(**changes: object) -> pb.Document:
    tensor = pb.Tensor(**{"dtype": "int64", "shape": [2], "data": bytes(16), **changes})  # pyright: ignore[reportArgumentType]
    return pb.Document(json='{"values": {"$tensor": "v"}}', tensors={"v": tensor})


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (pb.Document(json=""), "not valid JSON"),
        (pb.Document(json="[1]"), "must be a set of named fields, got list"),
        (pb.Document(json='{"a": NaN}'), "NaN is no number"),
        (pb.Document(json='{"a": 1, "a": 2}'), "'a' is given twice"),
        (pb.Document(json='{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"), "nested too deeply"),
        (pb.Document(json='{"a": ' + '{"b": ' * 40 + "1" + "}" * 41), "nested too deeply"),
        (pb.Document(json='{"a": ' + "1" * 5000 + "}"), "not valid JSON"),
        (
            pb.Document(json='{"a": {"$tensor": "b"}}', tensors={"c": pb.Tensor(dtype="bool", shape=[0])}),
            "the tensor 'b' is not there, or has another place already",
        ),
        (
            pb.Document(
                json='{"a": {"$tensor": "b"}, "c": {"$tensor": "b"}}', tensors={"b": pb.Tensor(dtype="bool", shape=[0])}
            ),
            "the tensor 'b' is not there, or has another place already",
        ),
        (_tensor(dtype="object"), "dtype must be one of bool"),
        (_tensor(shape=[3]), "has 16 bytes, but int64 [3] takes 24"),
        (_tensor(shape=[-2]), "negative length"),
        (_tensor(shape=[2**40, 2**40]), "at most 268,435,456 numbers"),
        (_tensor(shape=[1] * 9, data=bytes(8)), "has 9 axes, at most 8"),
        (_tensor(shape=[]), "has 16 bytes, but int64 [] takes 8"),
        (pb.Document(json="{}", tensors={str(number): pb.Tensor() for number in range(300)}), "has 300 tensors"),
    ],
)
def test_a_hostile_document_is_refused_with_its_reason(document: pb.Document, words: str) -> None:
    with pytest.raises(eq.SpecError) as caught:
        wire.read_document(document, wire.Limits())
    assert words in str(caught.value)


def test_limits_hold_for_all_tensors_of_a_document_together() -> None:
    tensors = {name: pb.Tensor(dtype="uint8", shape=[60], data=bytes(60)) for name in "ab"}
    with pytest.raises(eq.SpecError, match="at most 100 numbers"):
        wire.read_document(pb.Document(json="{}", tensors=tensors), wire.Limits(numbers=100))


def test_a_document_beyond_the_limit_of_its_text_is_not_parsed() -> None:
    with pytest.raises(eq.SpecError, match="at most 10 are read"):
        wire.read_document(pb.Document(json="{" + " " * 20), wire.Limits(json_bytes=10))


def test_numbers_in_the_text_count_like_those_of_tensors() -> None:
    document = pb.Document(json='{"scores": [[1, 2, 3], [4, 5, 6]], "name": "a"}')
    assert wire.read_document(document, wire.Limits(numbers=8))
    with pytest.raises(eq.SpecError, match="more than 7 numbers"):
        wire.read_document(document, wire.Limits(numbers=7))
