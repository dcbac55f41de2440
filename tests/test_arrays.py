"""Arrays reach the solvers alike, from wherever they come; and without a copy where none is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

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
