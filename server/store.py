"""Jobs as their owners see them: submitted, found, listed, cancelled, forgotten; on disk, for all servers of a store.

A tenant's name is part of every question, so that nobody meets another's job. Times that people read come from the
clock; nothing is decided by them, because clocks jump.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.rpc.code_pb2 import Code
from sqlalchemy import Connection, Row, func, insert, select, update

from .database import Database
from .job_ends import CANCELLED, DONE, ENDED, QUEUED, RUNNING, answered, end, forget
from .protocol import equipoise_pb2 as pb
from .protocol.failures import Refused
from .tables import jobs, requests, results

LONGEST_NAME = 200
"""Characters of a spec's name that a job repeats; a longer one ends in an ellipsis."""
BUSY = 5.0
"""Seconds after which a caller may try again who met a full queue."""

_SHOWN = (
    *(jobs.c.seq, jobs.c.id, jobs.c.state, jobs.c.kind, jobs.c.name, jobs.c.created, jobs.c.started, jobs.c.finished),
    *(jobs.c.attempts, jobs.c.progress, jobs.c.cancel_requested, jobs.c.failure, jobs.c.source),
)


@dataclass(frozen=True)
class NewJob:
    """A validated request, ready to be queued.

    request: a serialised SolveRequest. fingerprint: of all that was asked for. content: of what determines the
    answer. idempotency_key: the caller's own, empty for none.
    """

    tenant: str
    kind: str
    name: str
    request: bytes
    fingerprint: str
    content: str
    idempotency_key: str = ""


@dataclass(frozen=True)
class Bounds:
    """What may wait at one time: jobs in all, jobs of one tenant, and bytes of their requests together."""

    jobs: int = 10_000
    per_tenant: int = 1000
    size: int = 16 * 2**30


class Store:
    """The jobs in a database. For any thread. All methods raise `Refused`, UNAVAILABLE, where the database fails."""

    def __init__(self, url: str) -> None:
        """Opens the database; see `Database` for what can go wrong."""
        self.database = Database(url)

    def close(self) -> None:
        """Let the database go."""
        self.database.close()

    def submit(self, new: NewJob, bounds: Bounds) -> pb.Job:
        """The job for a request: that of an earlier submit with the same idempotency key, else a new one, which is
        done at once where the tenant has the whole answer to an identical request.

        Raises `Refused` where the key was used for another request, and where too much is waiting.
        """
        with self.database.writing() as connection:
            known = self._submitted(connection, new)
            if known is not None:
                return known
            result = connection.execute(answered(new.tenant, new.content)).scalar()
            if result is None:
                _admit(connection, new, bounds)
            now = time.time()
            entered = insert(jobs).values(
                id=f"{int(now * 1000) % 2**48:012x}{secrets.token_hex(10)}",
                tenant=new.tenant,
                kind=new.kind,
                name=_plain(new.name),
                idempotency_key=new.idempotency_key or None,
                fingerprint=new.fingerprint,
                content=new.content,
                size=len(new.request),
                created=now,
                state=QUEUED,
            )
            seq = connection.execute(entered.returning(jobs.c.seq)).scalar_one()
            if result is None:
                connection.execute(insert(requests).values(seq=seq, body=new.request))
            else:
                end(connection, seq, state=DONE, whole=True, source=pb.SOURCE_CACHED, result=result)
            return to_message(connection.execute(select(*_SHOWN).where(jobs.c.seq == seq)).one())

    def _submitted(self, connection: Connection, new: NewJob) -> pb.Job | None:
        if not new.idempotency_key:
            return None
        mine = (jobs.c.tenant == new.tenant) & (jobs.c.idempotency_key == new.idempotency_key)
        found = connection.execute(select(*_SHOWN, jobs.c.fingerprint).where(mine)).one_or_none()
        if found is None:
            return None
        if found.fingerprint != new.fingerprint:
            raise Refused(
                Code.ALREADY_EXISTS,
                "IDEMPOTENCY_KEY_USED",
                f"the idempotency key belongs to the job {found.id}, which was another request: use a new key",
            )
        return to_message(found)

    def find(self, tenant: str, id: str) -> pb.Job:
        """A job. Raises `Refused`, NOT_FOUND."""
        with self.database.reading() as connection:
            return to_message(_one(connection, tenant, id))

    def result(self, tenant: str, id: str) -> tuple[pb.Job, bytes | None]:
        """A job and, where it is done, its result: a serialised SolveResponse. Raises `Refused`, NOT_FOUND."""
        shown = select(*_SHOWN, results.c.body).outerjoin(results, results.c.seq == jobs.c.result)
        with self.database.reading() as connection:  # one statement: PostgreSQL shows each what is true when it begins
            found = connection.execute(shown.where(jobs.c.id == id, jobs.c.tenant == tenant)).one_or_none()
        if found is None:
            raise not_found(id)
        body = found.body
        if body is not None:  # messages that are strung together are merged by who reads them
            body += pb.SolveResponse(source=found.source).SerializeToString()
        return to_message(found), body

    def look(self, ids: Sequence[str]) -> list[pb.Job]:
        """Those of some jobs that are there."""
        with self.database.reading() as connection:
            return [to_message(row) for row in connection.execute(select(*_SHOWN).where(jobs.c.id.in_(ids)))]

    def page(
        self, tenant: str, size: int, before: str = "", states: Sequence[int] = (), kind: str = ""
    ) -> list[pb.Job]:
        """At most `size` of a tenant's jobs, the newest first, those made before the job `before` if it is given."""
        found = select(*_SHOWN).where(jobs.c.tenant == tenant).order_by(jobs.c.id.desc()).limit(size)
        if before:
            found = found.where(jobs.c.id < before)
        if states:
            found = found.where(jobs.c.state.in_(states))
        if kind:
            found = found.where(jobs.c.kind == kind)
        with self.database.reading() as connection:
            return [to_message(row) for row in connection.execute(found)]

    def cancel(self, tenant: str, id: str) -> pb.Job:
        """Ends a job that waits, and asks for the end of one that runs. Raises `Refused`, NOT_FOUND."""
        with self.database.writing() as connection:
            found = _one(connection, tenant, id)
            if found.state == QUEUED:
                end(connection, found.seq, state=CANCELLED, cancel_requested=True)
            elif found.state == RUNNING:
                connection.execute(update(jobs).where(jobs.c.seq == found.seq).values(cancel_requested=True))
            return to_message(_one(connection, tenant, id))

    def delete(self, tenant: str, id: str) -> None:
        """Forgets a job that has ended. Raises `Refused`: NOT_FOUND, or FAILED_PRECONDITION for one that has not."""
        with self.database.writing() as connection:
            found = _one(connection, tenant, id)
            if found.state not in ENDED:
                raise Refused(
                    Code.FAILED_PRECONDITION, "JOB_NOT_ENDED", f"the job {id} has not ended: cancel it, then delete it"
                )
            forget(connection, [found.seq])

    def counts(self) -> dict[int, int]:
        """How many jobs there are in each state that there is a job in."""
        with self.database.reading() as connection:
            counted = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))
            return {row[0]: row[1] for row in counted}


def to_message(row: Row[*tuple[Any, ...]]) -> pb.Job:
    """A row of jobs as a message."""
    job = pb.Job(
        id=row.id,
        state=row.state,
        kind=row.kind,
        name=json.loads(row.name),
        attempts=row.attempts,
        cancel_requested=row.cancel_requested,
    )
    for name in ("created", "started", "finished"):
        seconds = getattr(row, name)
        if seconds is not None:
            getattr(job, name).FromMicroseconds(round(seconds * 1e6))
    if row.progress is not None:
        job.progress.ParseFromString(row.progress)
    if row.failure is not None:
        job.failure.ParseFromString(row.failure)
    return job


def _one(connection: Connection, tenant: str, id: str) -> Row[*tuple[Any, ...]]:
    found = connection.execute(select(*_SHOWN).where(jobs.c.id == id, jobs.c.tenant == tenant)).one_or_none()
    if found is None:
        raise not_found(id)
    return found


def not_found(id: str) -> Refused:
    """The error for a job that is not there, or is another tenant's."""
    return Refused(Code.NOT_FOUND, "JOB_NOT_FOUND", f"there is no job {id!r:.60}: it may have been deleted")


def _admit(connection: Connection, new: NewJob, bounds: Bounds) -> None:
    waiting = select(func.count(), func.coalesce(func.sum(jobs.c.size), 0)).where(jobs.c.state == QUEUED)
    mine, _ = connection.execute(waiting.where(jobs.c.tenant == new.tenant)).one()
    count, size = map(int, connection.execute(waiting).one())  # PostgreSQL adds large numbers up to a Decimal
    full = None
    if mine >= bounds.per_tenant:
        full = f"{mine:,} jobs of yours are waiting, at most {bounds.per_tenant:,} may"
    elif count >= bounds.jobs:
        full = f"{count:,} jobs are waiting, at most {bounds.jobs:,} may"
    elif size + len(new.request) > bounds.size:
        full = f"the jobs that are waiting hold {size:,} bytes, at most {bounds.size:,} are kept"
    if full is not None:
        raise Refused(Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", f"the queue is full: {full}", BUSY)


def _plain(name: str) -> str:
    """A name as ASCII text that both databases keep: they disagree on what else a string may hold."""
    shown = name.encode("utf-8", "replace").decode()
    return json.dumps(shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "…")
