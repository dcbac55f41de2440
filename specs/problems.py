"""Telling what pydantic found wrong in the words of the spec: the place, what it got, what it wants."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .errors import Fault, Place, Problem, dotted, shown
from .sources import LONGEST_WORD

_TEMPLATES = {
    "missing": "is required",
    "greater_than_equal": "must be at least {ge}, got {input}",
    "greater_than": "must be above {gt}, got {input}",
    "less_than_equal": "must be at most {le}, got {input}",
    "less_than": "must be below {lt}, got {input}",
    "int_type": "must be a whole number, got {input}",
    "int_from_float": "must be a whole number, got {input}",
    "float_type": "must be a number, got {input}",
    "finite_number": "must be a finite number, got {input}",
    "bool_type": "must be true or false, got {input}",
    "string_type": "must be a string, got {input}",
    "literal_error": "must be {expected}, got {input}",
    "model_type": "must be a set of named fields, got {input}",
    "dict_type": "must be a set of named fields, got {input}",
    "tuple_type": "must be a list, got {input}",
    "list_type": "must be a list, got {input}",
    "frozen_instance": "cannot be changed; build a new one with `replace`",
}


SHOWN = 100
"""Problems of one document that are told, at most."""


def problems(error: ValidationError, model: type[Any]) -> list[Problem]:
    """The problems in a validation error, in the order of the fields; how many more there are, where they are many."""
    every = error.errors(include_url=False)
    told = [_problem(details, model) for details in every[:SHOWN]]
    more = len(every) - len(told)
    return [*told, Problem(f"and {more:,} more problems")] if more else told


def _problem(details: ErrorDetails, model: type[BaseModel]) -> Problem:
    # A union names its branches in the place, and those are no part of the document: they start with "~".
    place: Place = tuple(step for step in details["loc"] if not str(step).startswith("~"))
    context: dict[str, Any] = details.get("ctx", {})
    fault = context.get("error")
    if isinstance(fault, Fault):
        return _from_fault(fault, place)
    if details["type"] == "extra_forbidden":
        return Problem(_unknown(str(place[-1]), model, place[:-1]), place)
    template = _TEMPLATES.get(details["type"])
    if template is None:
        return Problem(details["msg"], place)
    return Problem(template.format(**context, input=shown(details["input"])), place)


def _from_fault(fault: Fault, outer: Place) -> Problem:
    place = outer + fault.place
    # `{sibling}` stands for a field beside the faulty one; it is told by its full name.
    message = re.sub(r"\{([a-z_.]+)\}", lambda match: dotted((*outer, *match[1].split("."))), fault.message)
    return Problem(message, place)


def _unknown(name: str, model: type[BaseModel], place: Place) -> str:
    fields = _fields(model, place)
    close = difflib.get_close_matches(name[:LONGEST_WORD], fields, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(fields)}"
    return f"is not a field of {dotted(place) or 'this spec'}; {hint}"


def _fields(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """The fields known at a place, found by following the annotations of the model."""
    for step in place:
        field = model.model_fields.get(str(step))
        nested = field and next((kind for kind in _models(field.annotation)), None)
        if nested is None:
            return []
        model = nested
    return [field.alias or name for name, field in model.model_fields.items() if name != "kind"]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]
