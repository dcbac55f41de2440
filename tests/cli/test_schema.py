"""`equipoise schema` and `equipoise example`: what kinds there are, and what to start from."""

from __future__ import annotations

from pathlib import Path

import pytest

import equipoise as eq
from equipoise.specs.spec import kinds

from .console import run, strict

EXAMPLES = Path(eq.__file__).parent / "specs" / "examples"


def test_schema_describes_every_kind_and_every_field() -> None:
    schema = strict(run("schema").stdout)
    names = {reference["$ref"].rpartition("/")[2] for reference in schema["oneOf"]}
    assert names == {spec.__name__ for spec in kinds().values()}
    for kind, spec in kinds().items():
        one = strict(run("schema", kind).stdout)
        assert one["properties"]["kind"]["const"] == kind
        assert "kind" in one["required"]
        undescribed = [name for name, field in one["properties"].items() if "description" not in field]
        tables = [name for name in undescribed if "$ref" in str(one["properties"][name])]
        assert undescribed == ["kind", *tables] or undescribed == tables, spec


def test_schema_knows_sweeps() -> None:
    whole, names = strict(run("schema").stdout), [spec.__name__ for spec in kinds().values()]
    assert all("sweep" in whole["$defs"][name]["properties"] for name in names)
    sweep = strict(run("schema", "rollout_budgets").stdout)["properties"]["sweep"]
    assert sweep["additionalProperties"]["items"]["type"] == ["boolean", "number", "string", "null"]


def test_schema_takes_a_table_by_columns_by_rows_or_from_a_file() -> None:
    prompts = strict(run("schema", "rollout_budgets").stdout)["$defs"]["Prompts"]
    columns, rows, reference = prompts["anyOf"]
    assert columns["properties"]["successes"]["anyOf"][0]["items"] == {"type": "integer", "minimum": 0}
    assert rows["items"]["properties"]["successes"]["minimum"] == 0
    assert reference["required"] == ["file"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("minimal/*.yaml")), ids=lambda path: path.stem)
def test_each_example_is_printed_as_it_stands_and_is_ready_to_solve(path: Path) -> None:
    shown = run("example", path.stem)
    assert shown.stdout_bytes == path.read_bytes()
    solved = run("solve", "-", "--compare", given=shown.stdout, width=80)
    assert solved.exit_code == 0, solved.output
    assert "nan" not in solved.stdout
    tables = solved.stdout.partition("checked:")[0]
    assert max(map(len, tables.splitlines())) <= 80


def test_unknown_kinds_get_a_suggestion() -> None:
    for command in ("example", "schema"):
        result = run(command, "rollout_budget")
        assert result.exit_code == 2
        assert "did you mean 'rollout_budgets'?" in result.stderr
