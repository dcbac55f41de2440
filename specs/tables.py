"""Tables in a spec: columns of equal length, one row per thing that is decided about.

A table is written as columns (`prompts: {successes: [3, 0], trials: [8, 8]}`), as a list of rows
(`groups: [{name: a, cost: 1}, ...]`) or as a reference to a file whose columns are named like its fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from .errors import Fault, shown
from .sources import FILE_SCHEMA, Folder, is_reference, read_table


class Table(BaseModel):
    """Columns of equal length. Subclasses declare a field per column; an optional one may be absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, use_attribute_docstrings=True)

    def __len__(self) -> int:
        return next((len(column) for column in self.__dict__.values() if column is not None), 0)

    def columns(self) -> dict[str, Any]:
        """The columns that are there, by name."""
        there = self.__dict__
        return {name: there[name] for name in type(self).model_fields if there[name] is not None}

    @model_validator(mode="before")
    @classmethod
    def _as_columns(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Table):  # what `replace` keeps
            return value
        if is_reference(value):
            folder = info.context if isinstance(info.context, Folder) else Folder(Path.cwd())
            return read_table(value, folder, list(cls.model_fields))
        if isinstance(value, (list, dict, Mapping)) and not value:
            return {name: [] for name, field in cls.model_fields.items() if field.is_required()}
        if isinstance(value, list):
            return _transposed(value)
        if not isinstance(value, (dict, Mapping)):
            raise Fault(f"must be a table (columns by name, a list of rows or a file reference), got {shown(value)}")
        return value

    @model_validator(mode="after")
    def _equal_lengths(self) -> Table:
        columns = self.columns()
        first = next(iter(columns), "")
        for name, column in columns.items():
            if len(column) != len(columns[first]):
                raise Fault(f"{{{first}}} has {len(columns[first])} entries, {{{name}}} has {len(column)}", name)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        columns = handler.resolve_ref_schema(handler(schema))
        about = {key: columns.pop(key) for key in ("title", "description") if key in columns}
        row = {name: _cell(column) for name, column in columns["properties"].items()}
        rows = {"type": "array", "items": {**columns, "properties": row, "title": "Row"}, "title": "Rows"}
        return {**about, "anyOf": [{**columns, "title": "Columns"}, rows, _TABLE_REFERENCE]}


_TABLE_REFERENCE: JsonSchemaValue = {
    "type": "object",
    "title": "File reference",
    "description": "A table kept in a file beside the spec: .csv, .parquet or .safetensors.",
    "properties": {
        **FILE_SCHEMA,
        "columns": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "The column of the file that each field is read from; absent if they have the same names.",
        },
    },
    "required": ["file"],
    "additionalProperties": False,
}


def _cell(column: JsonSchemaValue) -> JsonSchemaValue:
    """The JSON Schema of one entry of a column, from that of the whole column."""
    about = {key: column[key] for key in ("title", "description") if key in column}
    forms = [form["items"] for form in column.get("anyOf", [column]) if "items" in form]
    if not forms:  # a table within the table: its row stands for it
        forms = [{"type": "object"}]
    return {**about, **forms[0]} if len(forms) == 1 else {**about, "anyOf": forms}


def _transposed(rows: list[Any]) -> dict[str, list[Any]]:
    """Rows as columns. Every row must have the same fields."""
    columns: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise Fault(f"must be a row (a value per column), got {shown(row)}", number)
        for name in row if number == 0 else columns:
            if name not in row:
                raise Fault(f"has no {name!r}, which the rows before it have", number)
            columns.setdefault(str(name), []).append(row[name])
        for name in row:
            if name not in columns:
                raise Fault(f"has {name!r}, which the rows before it do not have", number)
    return columns


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise Fault(f"must be a list of names, got {shown(value)}")
    for number, name in enumerate(value):
        if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
            raise Fault(f"must be a name, got {shown(name)}", number)
    return tuple(str(name) for name in value)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if name in seen:
            raise Fault(f"is {shown(name)}, as entry {seen[name]} is; names must differ", number)
        seen[name] = number
    return names


Labels = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""Names, which may repeat: the group that each row belongs to."""
Names = Annotated[Labels, AfterValidator(_distinct)]
"""Names that all differ."""
