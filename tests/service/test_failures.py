"""Errors to statuses and back."""

from __future__ import annotations

import copy
import pickle
import string
from urllib.parse import quote

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

import equipoise as eq
from equipoise.server.protocol.failures import LARGEST_DETAIL, Refused, from_status, to_status
from equipoise.specs.errors import Problem

ERRORS = [
    eq.SpecError(
        [Problem("must be at least 1", ("prompts", "trials", 3)), Problem("is required", ("total",), "a.yaml", 7)]
    ),
    eq.UnsupportedError("no such backend"),
    eq.SolveTimeout("no plan in time"),
    eq.BackendError("it broke"),
    Refused(Code.RESOURCE_EXHAUSTED, "OVERLOADED", "too much", 0.25),
    Refused(Code.UNAUTHENTICATED, "TOKEN_MISSING", "no token"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_as_it_went(error: eq.EquipoiseError) -> None:
    back = from_status(Status.FromString(to_status(error).SerializeToString()))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert {**vars(back)} == {**vars(error)}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_can_be_copied_and_pickled(error: eq.EquipoiseError) -> None:
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))


def test_what_is_no_error_of_ours_tells_nothing_of_the_server() -> None:
    status = to_status(RuntimeError("secret"))
    assert status.code == Code.INTERNAL and b"secret" not in status.SerializeToString()


def test_thousands_of_problems_fit_into_trailers_and_say_how_many_are_left_out() -> None:
    error = eq.SpecError(Problem("must be at least 1", ("prompts", "trials", row)) for row in range(5000))
    status = to_status(error)
    assert status.ByteSize() < LARGEST_DETAIL + 3000
    back = from_status(status)
    assert isinstance(back, eq.SpecError)
    shown = len(back.problems) - 1
    assert back.problems[:shown] == error.problems[:shown]
    assert back.problems[-1].message == f"and {5000 - shown} more problems"


@pytest.mark.parametrize("sign", ["x", "−", "%", "𝛼", "\n", "\ud800"])
def test_a_status_fits_into_the_trailers_of_any_caller(sign: str) -> None:
    error = eq.SpecError(Problem(sign * 5000, (sign * 3000, row)) for row in range(50))
    status = to_status(error)
    encoded = len(quote(status.message, safe=string.ascii_letters + string.punctuation.replace("%", "") + " "))
    assert encoded + len(status.SerializeToString()) * 4 / 3 < 8192 - 300


def test_a_status_of_another_service_is_told_by_its_code() -> None:
    told = from_status(Status(code=Code.UNIMPLEMENTED, message="no such method"))
    assert isinstance(told, Refused) and told.reason == "UNIMPLEMENTED"
    strange = from_status(Status(code=999, message="?"))
    assert isinstance(strange, Refused) and strange.reason == "UNKNOWN"


def test_details_that_are_junk_leave_code_and_message() -> None:
    detail = AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    told = from_status(Status(code=Code.UNAVAILABLE, message="gone", details=[detail]))
    assert isinstance(told, Refused) and (told.reason, str(told)) == ("UNAVAILABLE", "gone")
