"""How a job ends, and what is kept of it then: for a while, its result, once for all jobs with the same question."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, func, insert, select, update

from .protocol import equipoise_pb2 as pb
from .tables import about, jobs, requests, results

QUEUED, RUNNING, DONE = pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING, pb.JOB_STATE_DONE
FAILED, CANCELLED = pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED
ENDED = (DONE, FAILED, CANCELLED)

MOST_KEPT, MOST_BYTES_KEPT = 10_000, 4 * 2**30
"""Ended jobs of one tenant, and bytes of their results: beyond either, those that ended first are forgotten."""
FORGOTTEN_AT_ONCE = 100
"""Jobs that make room in one transaction, at most: more than come in it."""


def end(connection: Connection, seq: int, **fields: Any) -> None:
    """Records how a job ended. Its request is needed no more, and older jobs may have to go."""
    served = select(about.c.served).scalar_subquery()
    final = update(jobs).where(jobs.c.seq == seq).values(finished=time.time(), ended=served, owner=None, **fields)
    tenant = connection.execute(final.returning(jobs.c.tenant)).scalar_one()
    connection.execute(delete(requests).where(requests.c.seq == seq))
    _make_room(connection, tenant)


def keep_result(connection: Connection, seq: int, tenant: str, body: bytes) -> int:
    """Writes the result of a job down, and returns its number."""
    connection.execute(insert(results).values(seq=seq, tenant=tenant, size=len(body), body=body))
    return seq


def forget(connection: Connection, seqs: Sequence[int]) -> int:
    """Deletes jobs, and the results that are no other's. Returns how many bytes of results that were."""
    which = select(jobs.c.result).where(jobs.c.seq.in_(seqs), jobs.c.result.is_not(None)).distinct()
    held = connection.execute(which).scalars().all()
    connection.execute(delete(jobs).where(jobs.c.seq.in_(seqs)))
    unused = results.c.seq.in_(held) & ~exists().where(jobs.c.result == results.c.seq)
    return sum(connection.execute(delete(results).where(unused).returning(results.c.size)).scalars())


def _make_room(connection: Connection, tenant: str) -> None:
    """Forgets a tenant's jobs that ended first, where more are kept than may be."""
    mine = (jobs.c.tenant == tenant) & jobs.c.ended.is_not(None)
    count = connection.execute(select(func.count()).select_from(jobs).where(mine)).scalar_one()
    kept = select(func.coalesce(func.sum(results.c.size), 0)).where(results.c.tenant == tenant)
    size = int(connection.execute(kept).scalar_one())
    if count <= MOST_KEPT and size <= MOST_BYTES_KEPT:
        return
    oldest = select(jobs.c.seq).where(mine).order_by(jobs.c.ended, jobs.c.seq).limit(FORGOTTEN_AT_ONCE)
    for seq in connection.execute(oldest).scalars().all():
        if count <= MOST_KEPT and size <= MOST_BYTES_KEPT:
            break
        count, size = count - 1, size - forget(connection, [seq])


def answered(tenant: str, content: str) -> Select[int]:
    """The latest whole answer to a question, by the number of the result."""
    mine = (jobs.c.tenant == tenant) & (jobs.c.content == content)
    return select(jobs.c.result).where(mine, jobs.c.state == DONE, jobs.c.whole).order_by(jobs.c.seq.desc()).limit(1)
