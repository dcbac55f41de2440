"""Arrays reach the solvers alike, from wherever they come; and without a copy where none is needed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

import equipoise as eq
from equipoise.specs.arrays import ArrayRule
from equipoise.specs.errors import Fault
from equipoise.specs.sources import Folder

HERE = Folder(None)
RATES = np.array([0.25, 0.5, 0.75])


def spec(rates: Any, **fields: Any) -> eq.RolloutBudgets:
    return eq.RolloutBudgets(prompts={"success_rate": rates}, total=12, value="knapsack_rl", **fields)


SOURCES = [
    ("a list", lambda folder: RATES.tolist()),
    ("a tuple", lambda folder: tuple(RATES.tolist())),
    ("numpy float32", lambda folder: RATES.astype(np.float32)),
    ("numpy, not contiguous", lambda folder: np.repeat(RATES, 2)[::2]),
    ("numpy, big-endian", lambda folder: RATES.astype(">f8")),
    ("a torch tensor", lambda folder: torch.tensor(RATES)),
    ("a torch tensor with a gradient", lambda folder: torch.tensor(RATES, requires_grad=True)),
    ("torch bfloat16", lambda folder: torch.tensor(RATES).to(torch.bfloat16)),
    ("torch float16", lambda folder: torch.tensor(RATES).half()),
    (".npy", lambda folder: {"file": str(folder / "rates.npy")}),
    (".npy in Fortran order", lambda folder: {"file": str(folder / "wide.npy"), "rows": [0, 3]}),
    (".safetensors", lambda folder: {"file": str(folder / "rates.safetensors"), "tensor": "rates"}),
    (".safetensors with one tensor", lambda folder: {"file": str(folder / "rates.safetensors")}),
    (".csv", lambda folder: {"file": str(folder / "rates.csv"), "column": "rate"}),
    (".csv rows", lambda folder: {"file": str(folder / "long.csv"), "column": "rate", "rows": [1, 4]}),
    (".parquet", lambda folder: {"file": str(folder / "rates.parquet"), "column": "rate"}),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    np.save(tmp_path / "rates.npy", RATES)
    np.save(tmp_path / "wide.npy", np.asfortranarray(np.concatenate([RATES, [0.9]])))
    save_file({"rates": RATES}, tmp_path / "rates.safetensors")
    (tmp_path / "rates.csv").write_text("name,rate\n" + "".join(f"p,{rate}\n" for rate in RATES))
    (tmp_path / "long.csv").write_text("rate\n0.1\n" + "".join(f"{rate}\n" for rate in RATES) + "0.1\n")
    parquet.write_table(pa.table({"rate": RATES}), tmp_path / "rates.parquet")
    return tmp_path


@pytest.mark.parametrize(("name", "source"), SOURCES, ids=[name for name, _ in SOURCES])
def test_the_same_numbers_from_everywhere(name: str, source: Any, folder: Path) -> None:
    got = spec(source(folder)).prompts.success_rate
    assert got is not None
    assert got.dtype == np.float64
    assert got.tolist() == RATES.tolist()
    assert spec(source(folder)).digest() == spec(RATES).digest()


def test_a_table_from_a_file_maps_fields_to_columns(folder: Path) -> None:
    table = {"file": str(folder / "long.csv"), "columns": {"success_rate": "rate"}, "rows": [1, 4]}
    built = eq.RolloutBudgets(prompts=table, total=12, value="knapsack_rl")
    assert built.prompts.success_rate is not None
    assert built.prompts.success_rate.tolist() == RATES.tolist()


def test_paths_start_at_the_spec(folder: Path) -> None:
    nested = folder / "specs"
    nested.mkdir()
    (nested / "spec.yaml").write_text(
        "kind: rollout_budgets\nprompts: {success_rate: {file: ../rates.npy}}\ntotal: 12\nvalue: knapsack_rl\n"
    )
    loaded = eq.load(nested / "spec.yaml")
    assert loaded.digest() == spec(RATES).digest()


def test_float64_is_read_without_a_copy_and_left_writeable() -> None:
    mine = RATES.copy()
    held = spec(mine).prompts.success_rate
    assert held is not None
    assert np.shares_memory(held, mine)
    assert mine.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 0.1


def test_torch_float64_is_read_without_a_copy() -> None:
    tensor = torch.tensor(RATES)
    held = spec(tensor).prompts.success_rate
    assert held is not None
    assert np.shares_memory(held, tensor.numpy())


def test_rows_and_columns_are_one_table() -> None:
    rows = eq.RolloutBudgets(prompts=[{"successes": 1, "trials": 8}, {"successes": 2, "trials": 8}], total=8)
    columns = eq.RolloutBudgets(prompts={"successes": [1, 2], "trials": [8, 8]}, total=8)
    assert rows == columns


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("successes,trials,group\n1,8,007\n2,8,1e3\n")
    built = eq.RolloutBudgets(prompts={"file": str(tmp_path / "prompts.csv")}, total=8)
    assert built.prompts.group == ("007", "1e3")


BAD = [
    (ArrayRule(), "12", "must be a list of numbers"),
    (ArrayRule(), {1, 2}, "must be a list of numbers"),
    (ArrayRule(), np.array(["1", "2"]), "must hold numbers"),
    (ArrayRule(), np.array([True, False]), "must hold numbers"),
    (ArrayRule(), np.array([1 + 2j]), "must hold numbers"),
    (ArrayRule(), [[1, 2], [3]], "has 1 entries, the rows before it have 2"),
    (ArrayRule(), [[[1]]], "must be a list"),
    (ArrayRule(dimensions=(2,)), [1, 2], "must be a table"),
    (ArrayRule(minus_infinity=True), [np.inf], "must be finite or -inf"),
    (ArrayRule(whole=True), np.array([1e300]), "must be a whole number"),
    (ArrayRule(whole=True), np.array([2**63], dtype=np.uint64), "must be at most"),
    (ArrayRule(whole=True), [2**70], "must be a whole number"),
    (ArrayRule(above=0), [1.0, 0.0], "must be above 0, got 0"),
    (ArrayRule(), [1, 10**400], "must be at most 9007199254740992, got an integer of about 401 digits"),
    (ArrayRule(), [-(10**5000)], "must be at least -9007199254740992, got an integer of about 5001 digits"),
    (ArrayRule(), [{"x": 10**5000}], "must be a number, got a very large dict"),
    (ArrayRule(), torch.eye(2).to_sparse(), "must be a dense tensor"),
]


@pytest.mark.parametrize(("rule", "value", "words"), BAD, ids=[str(words) for _, _, words in BAD])
def test_what_is_no_such_array_is_refused(rule: ArrayRule, value: Any, words: str) -> None:
    with pytest.raises(Fault, match=words):
        rule.read(value, HERE)


def test_minus_infinity_travels_through_json_as_a_word() -> None:
    rule = ArrayRule(minus_infinity=True)
    assert rule.read(["-inf", 1], HERE).tolist() == [-np.inf, 1.0]


def test_a_long_inline_list_in_yaml_is_pointed_to_a_file(tmp_path: Path) -> None:
    numbers = ", ".join(["0.5"] * 300_000)
    (tmp_path / "spec.yaml").write_text(f"kind: rollout_budgets\nprompts: {{success_rate: [{numbers}]}}\n")
    with pytest.raises(eq.SpecError, match=r"refer to them, as in \{file: scores\.npy\}"):
        eq.load(tmp_path / "spec.yaml")


def test_a_list_around_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(Fault, match="must be a list or a table"):
        ArrayRule().read(endless, HERE)


def npy(header: str) -> bytes:
    padded = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode()


def shape(text: str, kind: str = "<f8") -> bytes:
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {text}, }}") + b"\0" * 64


BROKEN_FILES = [
    ("a.npy", npy("(((("), {}, "a.npy is not a .npy file"),
    ("a.npy", shape("(-4, -2)"), {}, r"a.npy claims a shape of \[-4, -2\]"),
    ("a.npy", shape(f"(0, {2**62})"), {}, r"a.npy claims a shape of \[0, "),
    ("a.npy", shape("(3,)", "|S0"), {}, "a.npy must hold numbers, not"),
    ("a.npy", shape("()"), {"rows": [0, 1]}, "a.npy holds a single number"),
    ("a.npy", shape("(3,)"), {"rows": [0, 99]}, "asks for rows 0 to 99, but a.npy has 3"),
    ("a.npy", shape("(3,)"), {"rows": [False, True]}, "must be .first, last."),
    ("a.csv", b"x\n" + b"1" * 200_000, {"column": "x"}, "a.csv:2: is not valid CSV: field larger"),
    ("a.csv", b"x\n\xff\xfe\n", {"column": "x"}, "a.csv is not UTF-8 text"),
    ("a.csv", b"x\n1_0\n", {"column": "x"}, "must be a number, got '1_0' in a.csv:2"),
    ("a.csv", b"x\n" + b"9" * 400, {"column": "x"}, "must be at most 9007199254740992, got"),
    ("a.csv", b"x\n1\n2\n3\n", {"column": "x", "rows": [50, 99]}, "rows 50 to 99, but a.csv has 3"),
    ("a.parquet", b"PAR1 junk PAR1", {"column": "x"}, "a.parquet is not a .parquet file"),
]


@pytest.mark.parametrize(("name", "content", "more", "words"), BROKEN_FILES, ids=[case[-1] for case in BROKEN_FILES])
def test_a_broken_file_is_refused(name: str, content: bytes, more: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Fault, match=words):
        ArrayRule().read({"file": name, **more}, Folder(tmp_path))


@pytest.mark.parametrize("name", ["x" * 5000 + ".npy", "\ud800.npy", "a\0b.npy"], ids=["long", "surrogate", "NUL"])
def test_a_name_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="must be a path that this system allows"):
        ArrayRule().read({"file": name}, Folder(tmp_path))


def test_bfloat16_in_safetensors_is_read_exactly(tmp_path: Path) -> None:
    save_torch({"other": torch.zeros(3), "x": torch.tensor([[0.1, -2.5]]).bfloat16()}, tmp_path / "a.safetensors")
    read = ArrayRule(dimensions=(2,)).read({"file": "a.safetensors", "tensor": "x"}, Folder(tmp_path))
    assert read.tolist() == torch.tensor([[0.1, -2.5]]).bfloat16().tolist()


def test_8_bit_floats_in_safetensors_are_told(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(Fault, match="holds F8_E4M3; save it as float32"):
        ArrayRule().read({"file": "a.safetensors"}, Folder(tmp_path))
