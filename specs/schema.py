"""What a spec may say, as JSON Schema (draft 2020-12): for editors, forms and other programs.

It follows from the specs themselves, descriptions included. What compares one field with another (equal lengths,
budgets that suffice) cannot be said in it; that is what reading a spec checks.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from .spec import kind as kind_of
from .spec import kinds

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: str | None = None) -> dict[str, Any]:
    """The schema of one kind of spec; without a kind, of them all, told apart by their `kind`.

    Raises `SpecError` where there is no such kind.
    """
    if kind is not None:
        cls = kind_of(kind)
        schema = cls.model_json_schema()
        _require_kind(schema)
    else:
        classes: list[type[Any]] = list(kinds().values())
        references, schema = models_json_schema([(cls, "validation") for cls in classes])
        schema |= {"title": "Equipoise spec", "oneOf": list(references.values())}
        for reference in references.values():
            _require_kind(schema["$defs"][reference["$ref"].rpartition("/")[2]])
    return {"$schema": DIALECT, **schema}


def _require_kind(schema: dict[str, Any]) -> None:
    """A file must name its kind, which a class in Python knows by itself."""
    schema["required"] = ["kind", *schema.get("required", [])]
