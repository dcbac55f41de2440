"""What a spec may say, as JSON Schema (draft 2020-12): for editors, forms and other programs.

It follows from the specs themselves, descriptions included. What compares one field with another (equal lengths,
budgets that suffice) cannot be said in it; that is what reading a spec checks.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from .spec import kind as kind_of
from .spec import kinds
from .sweeps import SCHEMA

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: str | None = None, swept: bool = False) -> dict[str, Any]:
    """The schema of one kind of spec; without a kind, of them all, told apart by their `kind`. swept: as a file may
    say it, which can hold a sweep as well.

    Raises `SpecError` where there is no such kind.
    """
    if kind is not None:
        cls = kind_of(kind)
        schema = cls.model_json_schema()
        models = [schema]
    else:
        classes: list[type[Any]] = list(kinds().values())
        references, schema = models_json_schema([(cls, "validation") for cls in classes])
        schema |= {"title": "Equipoise spec", "oneOf": list(references.values())}
        models = [schema["$defs"][reference["$ref"].rpartition("/")[2]] for reference in references.values()]
    for model in models:
        # A file must name its kind, which a class in Python knows by itself.
        model["required"] = ["kind", *model.get("required", [])]
        if swept:
            model["properties"]["sweep"] = SCHEMA
    return {"$schema": DIALECT, **schema}
