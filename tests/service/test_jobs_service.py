"""What callers send to the service of jobs is read with suspicion, and answered in the protocol's words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code

from equipoise.server.engine import Call, Engine
from equipoise.server.job_ends import CANCELLED, DONE, QUEUED, RUNNING
from equipoise.server.job_queue import JobQueue
from equipoise.server.jobs import JobsService
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol.failures import Refused
from equipoise.server.settings import ServerSettings
from equipoise.server.store import Store
from equipoise.server.telemetry import Telemetry
from equipoise.server.tenants import Quotas, Tenant
from equipoise.specs.errors import SpecError, UnsupportedError

from .doomed import plan

LIMIT = 30.0
PROMPTS = {"kind": "rollout_budgets", "prompts": {"success_rate": [0.5, 0.2]}, "total": 8, "value": "knapsack_rl"}


class Workers:
    """Keeps the requests that it is given, and answers all alike."""

    waiting = 0

    def __init__(self) -> None:
        self.count = 1
        self.requests: list[pb.SolveRequest] = []

    async def solve(self, request: bytes, **options: Any) -> bytes:
        self.requests.append(pb.SolveRequest.FromString(request))
        return plan(1)


@dataclass
class Service:
    jobs: JobsService
    workers: Workers
    tenant: Tenant

    def call(self) -> Call:
        return Call(tenant=self.tenant)

    async def submit(self, fields: dict[str, Any] | None = None, **more: Any) -> pb.Job:
        document = pb.Document(json=json.dumps(PROMPTS | (fields or {})))
        raw = pb.SubmitRequest(spec=document, **more).SerializeToString()
        return pb.SubmitResponse.FromString(await self.jobs._submit(self.call(), raw)).job

    async def get(self, **request: Any) -> pb.GetResponse:
        return pb.GetResponse.FromString(
            await self.jobs._get(self.call(), pb.GetRequest(**request).SerializeToString())
        )

    async def list(self, **request: Any) -> pb.ListResponse:
        raw = pb.ListRequest(**request).SerializeToString()
        return pb.ListResponse.FromString(await self.jobs._list(self.call(), raw))

    async def watch(self, **request: Any) -> list[pb.Job]:
        raw = pb.WatchRequest(**request).SerializeToString()
        return [pb.WatchResponse.FromString(body).job async for body in self.jobs._watch(self.call(), raw)]


@asynccontextmanager
async def _service(data: Path, slots: int = 1, **quotas: Any) -> AsyncIterator[Service]:
    settings = ServerSettings(data=data, threads=2, patience=10.0)
    workers, telemetry, store = Workers(), Telemetry(settings), Store(settings.store_url)
    engine: Any = Engine(settings, workers, telemetry)  # pyright: ignore[reportArgumentType]
    queue = JobQueue(store, workers, slots=slots, telemetry=telemetry)
    await queue.start()
    try:
        yield Service(JobsService(engine, queue), workers, Tenant("ours", Quotas(**quotas)))
    finally:
        await queue.drain(0.0)
        engine.threads.shutdown()
        store.close()


def _with(data: Path, work: Callable[[Service], Awaitable[None]], slots: int = 1, **quotas: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(LIMIT), _service(data, slots, **quotas) as service:
            await work(service)

    asyncio.run(run())


def test_a_job_is_submitted_watched_fetched_and_deleted(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        job = await service.submit({"name": "mine"}, options=pb.Options(seed=3))
        assert (job.kind, job.name) == ("rollout_budgets", "mine")
        seen = await service.watch(id=job.id)
        assert seen[-1].state == DONE
        got = await service.get(id=job.id)
        assert got.job == seen[-1]
        assert (
            got.result.SerializeToString()
            == pb.SolveResponse.FromString(
                plan(1) + pb.SolveResponse(source=pb.SOURCE_SOLVED).SerializeToString()
            ).SerializeToString()
        )
        assert not (await service.get(id=job.id, without_result=True)).HasField("result")
        assert list((await service.list()).jobs) == [seen[-1]]
        assert await service.jobs._delete(service.call(), pb.DeleteRequest(id=job.id).SerializeToString()) == b""
        assert not (await service.list()).jobs
        (request,) = service.workers.requests
        assert json.loads(request.spec.json)["name"] == "mine"
        assert (request.options.seed, request.options.HasField("time_limit")) == (3, False)

    _with(tmp_path, work)


@pytest.mark.parametrize(
    ("request_", "error", "match"),
    [
        ({"fields": {"total": "many"}}, SpecError, "total"),
        ({"fields": {"kind": "nothing"}}, SpecError, "kind"),
        ({"fields": {"prompts": {"file": "/etc/passwd"}}}, SpecError, "file"),
        ({"options": pb.Options(method="magic")}, UnsupportedError, "method"),
        ({"options": pb.Options(backend="pyomo:/bin/sh")}, UnsupportedError, "backend"),
        ({"options": pb.Options(method="fast", backend="highs")}, UnsupportedError, "runs no backend"),
        ({"options": pb.Options(time_limit=float("nan"))}, UnsupportedError, "time_limit"),
        ({"idempotency_key": "k" * 129}, Refused, "idempotency_key: must be at most 128"),
        ({"idempotency_key": "a\0b"}, Refused, "idempotency_key"),
        ({"idempotency_key": "two\nlines"}, Refused, "idempotency_key"),
    ],
)
def test_what_cannot_be_solved_is_refused_before_it_is_queued(
    tmp_path: Path, request_: dict[str, Any], error: type[Exception], match: str
) -> None:
    async def work(service: Service) -> None:
        with pytest.raises(error, match=match):
            await service.submit(**request_)
        assert not (await service.list()).jobs

    _with(tmp_path, work, slots=0)


@pytest.mark.parametrize("id", ["", "0" * 31, "'; DROP TABLE equipoise_jobs", "\0" * 32, "A" * 32, "0" * 32, "é" * 32])
def test_an_id_that_is_none_is_not_found(tmp_path: Path, id: str) -> None:
    async def work(service: Service) -> None:
        async def cancel() -> None:
            await service.jobs._cancel(service.call(), pb.CancelRequest(id=id).SerializeToString())

        async def delete() -> None:
            await service.jobs._delete(service.call(), pb.DeleteRequest(id=id).SerializeToString())

        async def get() -> None:
            await service.get(id=id)

        async def watch() -> None:
            await service.watch(id=id)

        for ask in (get, watch, cancel, delete):
            with pytest.raises(Refused) as refused:
                await ask()
            assert (refused.value.code, refused.value.reason) == (Code.NOT_FOUND, "JOB_NOT_FOUND")

    _with(tmp_path, work, slots=0)


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        ({"page_size": 1001}, "page_size: must be at most 1000, got 1,001"),
        ({"page_token": "next"}, "page_token"),
        ({"states": [99]}, "no state of jobs 99"),
        ({"states": [pb.JOB_STATE_UNSPECIFIED]}, "no state of jobs 0"),
        ({"kind": "rollout_budget"}, "is not a kind of task"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(tmp_path: Path, request_: dict[str, Any], match: str) -> None:
    async def work(service: Service) -> None:
        with pytest.raises((Refused, SpecError), match=match):
            await service.list(**request_)

    _with(tmp_path, work, slots=0)


@pytest.mark.parametrize("seconds", [-1, 3601, 10**11])
def test_an_interval_that_makes_no_sense_is_refused(tmp_path: Path, seconds: int) -> None:
    async def work(service: Service) -> None:
        job = await service.submit()
        with pytest.raises(Refused, match="interval"):
            await service.watch(id=job.id, interval=Duration(seconds=seconds))

    _with(tmp_path, work, slots=0)


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05ab"])
def test_half_a_message_is_refused(tmp_path: Path, raw: bytes) -> None:
    async def work(service: Service) -> None:
        handlers = service.jobs
        for method in (handlers._submit, handlers._get, handlers._list, handlers._cancel, handlers._delete):
            with pytest.raises(SpecError, match=r"is not a equipoise\.v1|is not an? "):
                await method(service.call(), raw)
        with pytest.raises(SpecError):
            await anext(handlers._watch(service.call(), raw))

    _with(tmp_path, work, slots=0)


def test_pages_follow_each_other(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        made = {(await service.submit({"total": 8 + index})).id for index in range(7)}
        found, token, pages = list[str](), "", 0
        while pages == 0 or token:
            page = await service.list(page_size=3, page_token=token, states=[QUEUED, RUNNING])
            found += [job.id for job in page.jobs]
            token, pages = page.next_page_token, pages + 1
        assert (len(found), set(found), pages) == (7, made, 3)
        assert found == sorted(found, reverse=True)
        assert not (await service.list(states=[CANCELLED])).next_page_token

    _with(tmp_path, work, slots=0)


@pytest.mark.parametrize(
    ("asked", "quota", "given"),
    [(None, None, None), (None, 5.0, 5.0), (2.0, 5.0, 2.0), (9.0, 5.0, 5.0), (9.0, None, 9.0)],
)
def test_a_tenants_longest_solve_is_a_time_limit(
    tmp_path: Path, asked: float | None, quota: float | None, given: float | None
) -> None:
    async def work(service: Service) -> None:
        job = await service.submit(options=pb.Options(time_limit=asked))
        await service.watch(id=job.id)
        (request,) = service.workers.requests
        assert (request.options.time_limit if request.options.HasField("time_limit") else None) == given

    _with(tmp_path, work, seconds=quota)


def test_a_tenants_quotas_hold_for_jobs(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await service.submit({"total": 8})
        await service.submit({"total": 9})
        with pytest.raises(Refused, match="at most 2 may") as refused:
            await service.submit({"total": 10})
        assert refused.value.code == Code.RESOURCE_EXHAUSTED
        with pytest.raises(Refused, match="threads") as refused:
            await service.submit(options=pb.Options(threads=2))
        assert refused.value.code == Code.PERMISSION_DENIED

    _with(tmp_path, work, slots=0, queued_jobs=2, threads=1)


def test_a_retried_submit_is_one_job_however_its_message_is_written(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        first = await service.submit(idempotency_key="k", options=pb.Options(method="auto"))
        assert (await service.submit(idempotency_key="k")).id == first.id  # "auto" is what an empty method says
        with pytest.raises(Refused) as refused:
            await service.submit(idempotency_key="k", options=pb.Options(time_limit=3.0))
        assert refused.value.code == Code.ALREADY_EXISTS

    _with(tmp_path, work, slots=0)


def test_a_repeated_request_is_answered_by_the_stored_result_whatever_its_time_limit(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await service.watch(id=(await service.submit()).id)
        again = await service.submit(options=pb.Options(time_limit=3.0))
        other = await service.submit(options=pb.Options(seed=1))
        assert (again.state, other.state) == (DONE, QUEUED)
        assert (await service.get(id=again.id)).result.source == pb.SOURCE_CACHED

    _with(tmp_path, work)
