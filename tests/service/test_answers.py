"""The cache of answers, and requests that share one solve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import equipoise as eq
from equipoise.server.answers import Answer, Cache, Caller, Flights, Outcome, content_key
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import wire
from equipoise.solvers.control import Options

ANSWER = Outcome(b"answer")


def document(total: int = 24) -> pb.Document:
    task = eq.RolloutBudgets(prompts={"successes": [0, 3], "trials": [8, 8]}, total=total)
    return pb.Document.FromString(b"".join(wire.spec_fields(task)))


def answer(size: int) -> Answer:
    return Answer("rollout_budgets", bytes(size))


def key(tenant: str = "a", total: int = 24, **options: Any) -> str:
    return content_key(tenant, document(total), Options(**options))


def test_a_key_stands_for_all_that_determines_an_answer() -> None:
    assert key() == key(time_limit=3.0), "a time limit determines no whole answer"
    changed: list[dict[str, Any]] = [
        {"method": "exact"},
        {"backend": "highs"},
        {"gap": 0.1},
        {"seed": 1},
        {"threads": 2},
        {"tenant": "b"},
        {"total": 26},
    ]
    assert len({key(), *(key(**change) for change in changed)}) == len(changed) + 1


def test_every_part_of_a_document_counts_and_the_order_of_its_tensors_does_not() -> None:
    sent = document()
    assert len(sent.tensors) == 2
    turned = pb.Document(json=sent.json)
    for name in sorted(sent.tensors, reverse=True):
        turned.tensors[name].CopyFrom(sent.tensors[name])
    assert content_key("a", turned, Options()) == key()

    def changed(change: Callable[[pb.Document], object]) -> str:
        other = pb.Document()
        other.CopyFrom(sent)
        change(other)
        return content_key("a", other, Options())

    successes = sent.tensors["prompts.successes"]
    keys = [
        changed(lambda other: setattr(other, "json", sent.json + " ")),
        changed(lambda other: other.tensors["more"].CopyFrom(successes)),
        changed(lambda other: other.tensors.pop("prompts.trials")),
        changed(lambda other: setattr(other.tensors["prompts.trials"], "dtype", "uint64")),
        changed(lambda other: other.tensors["prompts.trials"].shape.append(1)),
        changed(lambda other: setattr(other.tensors["prompts.trials"], "data", successes.data)),
    ]
    assert len({key(), *keys}) == len(keys) + 1


def test_an_answer_stands_for_its_request_under_the_same_limits_alone() -> None:
    keys = [content_key("a", document(), Options(), wire.Limits(numbers=numbers)) for numbers in (10, 100, 100)]
    assert keys[0] != keys[1] == keys[2]


def test_the_cache_keeps_the_latest_that_fit() -> None:
    cache = Cache(100)
    for name in "abc":
        cache.put("t", name, answer(40))
    assert cache.get("t", "a") is None
    assert cache.get("t", "b") is not None
    cache.put("t", "d", answer(40))  # c is now the one that was used the longest ago
    assert [cache.get("t", name) is not None for name in "bcd"] == [True, False, True]


def test_the_cache_counts_an_answer_that_is_replaced_once() -> None:
    cache = Cache(100)
    for size in (60, 90, 10, 60):
        cache.put("t", "a", answer(size))
    cache.put("t", "b", answer(40))
    assert cache.get("t", "a") is not None and cache.get("t", "b") is not None


def test_an_answer_that_does_not_fit_pushes_nothing_out() -> None:
    cache = Cache(100)
    cache.put("t", "a", answer(40))
    cache.put("t", "b", answer(101))
    assert cache.get("t", "a") is not None and cache.get("t", "b") is None


def test_tenants_share_nothing() -> None:
    cache = Cache(100)
    cache.put("t", "a", answer(90))
    cache.put("u", "b", answer(90))
    assert cache.get("u", "a") is None
    assert cache.get("t", "a") is not None


def test_all_tenants_together_have_a_bound_too() -> None:
    cache = Cache(100, altogether=180)
    cache.put("small", "a", answer(30))
    for name in ("one", "two"):
        cache.put(name, "a", answer(40))
        cache.put(name, "b", answer(40))
    kept = [cache.get(name, key) is not None for name in ("small", "one", "two") for key in "ab"]
    assert kept == [True, False, False, True, True, True], "the small one's stays, the largest has given its oldest up"
    cache = Cache(100, altogether=90)
    cache.put("one", "a", answer(60))
    cache.put("two", "a", answer(60))
    assert sum(cache.get(name, "a") is not None for name in ("one", "two")) == 1


def test_a_second_caller_joins_the_first() -> None:
    flights, one, two = Flights(), Caller(), Caller()
    flight, first = flights.join("key", one)
    assert first
    assert flights.join("key", two) == (flight, False)
    waiting = [flights.landing(flight), flights.landing(flight)]
    flights.land(flight, ANSWER)
    assert [future.result(0) for future in waiting] == [ANSWER, ANSWER]
    assert flights.landing(flight).result(0) == ANSWER
    assert flights.join("key", Caller())[1], "what has landed is no longer under way"


def test_a_caller_with_less_time_than_the_first_flies_alone() -> None:
    flights = Flights()
    flight, _ = flights.join("key", Caller(deadline=10.0))
    hasty, first = flights.join("key", Caller(deadline=9.0))
    assert first and hasty is not flight
    assert flights.join("key", Caller(deadline=11.0))[0] is flight
    assert flights.join("key", Caller())[0] is flight
    flights.land(hasty, ANSWER)
    assert flights.join("key", Caller())[0] is flight, "the other is under way still"


def test_a_flight_is_abandoned_when_the_last_caller_leaves() -> None:
    flights, one, two = Flights(), Caller(), Caller()
    flight, _ = flights.join("key", one)
    flights.join("key", two)
    flights.leave(one)
    assert not flight.abandoned
    flights.leave(two)
    assert flight.abandoned
    assert flights.join("key", Caller())[1], "nobody joins what is abandoned"


def test_a_caller_who_left_before_he_joined_holds_nothing_up() -> None:
    flights, caller = Flights(), Caller()
    flights.leave(caller)
    flight, first = flights.join("key", caller)
    assert first and flight.abandoned


def test_one_who_cancels_his_wait_takes_nothing_from_others() -> None:
    flights, one, two = Flights(), Caller(), Caller()
    flight, _ = flights.join("key", one)
    flights.join("key", two)
    mine, other = flights.landing(flight), flights.landing(flight)
    assert mine.cancel()
    flights.land(flight, ANSWER)
    assert other.result(0) == ANSWER


def test_a_failure_is_told_to_all() -> None:
    flights = Flights()
    flight, _ = flights.join("key", Caller())
    waiting = flights.landing(flight)
    flights.land(flight, Outcome(error=eq.BackendError("broken")))
    with pytest.raises(eq.BackendError, match="broken"):
        waiting.result(0).answer()


def test_a_search_without_callers_is_cancelled() -> None:
    async def main() -> bool:
        flights, caller = Flights(), Caller()
        flight, _ = flights.join("key", caller)
        flight.search = asyncio.create_task(asyncio.sleep(60))
        flights.leave(caller)
        await asyncio.wait([flight.search], timeout=5)
        return flight.search.cancelled()

    assert asyncio.run(main())
