"""Who works at which job: servers take jobs from the queue of a store, and one takes over what another left behind.

A server that lives makes its beat rise. The others watch that on clocks of their own: one whose beat has stood still
for as long as its lease lasts is taken for dead, and its jobs go back into the queue. No clock is compared with
another, so none that is wrong or jumps costs a job. (So do the leader elections of Kubernetes' client-go.)
A server that was taken for dead and is not finds out at its next beat; the end of a job counts only with the turn in
which it was started, so that nothing is recorded twice.

Jobs start oldest first, the tenants taking turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.rpc.status_pb2 import Status
from sqlalchemy import ColumnElement, Connection, case, delete, func, insert, select, update

from ..specs.errors import ServiceError
from .database import Database
from .job_ends import CANCELLED, DONE, FAILED, QUEUED, RUNNING, answered, end, forget, keep_result
from .protocol import equipoise_pb2 as pb
from .protocol.failures import to_status
from .tables import about, jobs, requests, servers

MOST_LOST = 2
"""Workers that may die over a job before it is given up."""
MOST_STARTS = 5
"""Starts of a job before it is given up, whatever became of the servers."""


@dataclass(frozen=True, eq=False)
class Claim:
    """A job that is this server's to run. `turn` shows that it still is."""

    seq: int
    turn: int
    id: str
    tenant: str
    kind: str
    attempts: int
    request: bytes


@dataclass(frozen=True)
class Outcome:
    """How a run of a job ended.

    state: DONE with a result, FAILED with a reason, CANCELLED, or QUEUED where the worker was lost, for that reason.
    whole: no limit cut the result short, so that it answers the same question whatever the limits.
    """

    state: int
    result: bytes | None = None
    failure: Status | None = None
    whole: bool = False


class Beat(NamedTuple):
    """How a server shows that it lives: a number that rises. lease: seconds for which it may stand still."""

    number: int
    lease: float


class Leases:
    """The queue of a database as one server sees it. For any thread; methods raise `Refused` where that fails."""

    def __init__(self, database: Database, owner: str, lease: float = 15.0) -> None:
        """lease: seconds of silence after which the jobs of this server may be taken over."""
        self._database, self._owner, self._lease = database, owner, lease

    def claim(self) -> Claim | None:
        """The next job, now this server's; None if none is ready to start.

        One that asks what another of the same tenant is being asked waits for that answer.
        """
        with self._database.reading() as connection:  # most looks find nothing, and need no lock
            if connection.execute(select(jobs.c.seq).where(jobs.c.state == QUEUED).limit(1)).scalar() is None:
                return None
        with self._database.writing() as connection:
            found = _next(connection)
            if found is None:
                return None
            self._beat(connection)  # who runs a job is always on the list of servers
            connection.execute(update(about).values(turn=about.c.turn + 1))
            turn = connection.execute(select(about.c.turn)).scalar_one()
            mine = {"state": RUNNING, "owner": self._owner, "turn": turn, "attempts": jobs.c.attempts + 1}
            connection.execute(
                update(jobs).where(jobs.c.seq == found).values(**mine, started=time.time(), progress=None)
            )
            wanted = (jobs.c.id, jobs.c.tenant, jobs.c.kind, jobs.c.attempts)
            row = connection.execute(
                select(*wanted, requests.c.body).join(requests, requests.c.seq == jobs.c.seq).where(jobs.c.seq == found)
            ).one()
            return Claim(found, turn, row.id, row.tenant, row.kind, row.attempts, row.body)

    def finish(self, claim: Claim, outcome: Outcome) -> int | None:
        """Records the end of a run. Returns the state the job is in now, None if it is this server's no more."""
        with self._database.writing() as connection:
            mine = self._mine(claim.seq, claim.turn)
            asked = connection.execute(select(jobs.c.cancel_requested, jobs.c.lost).where(mine)).one_or_none()
            if asked is None:
                return None
            state, failure = outcome.state, outcome.failure and outcome.failure.SerializeToString()
            if state == QUEUED:
                gone = asked.lost + 1 >= MOST_LOST
                state = CANCELLED if asked.cancel_requested else FAILED if gone else QUEUED
                connection.execute(update(jobs).where(jobs.c.seq == claim.seq).values(lost=asked.lost + 1))
            if state == QUEUED:
                _requeue(connection, claim.seq)
                return state
            if state == DONE:
                result = keep_result(connection, claim.seq, claim.tenant, outcome.result or b"")
                end(connection, claim.seq, state=state, whole=outcome.whole, source=pb.SOURCE_SOLVED, result=result)
            else:
                end(connection, claim.seq, state=state, failure=failure if state == FAILED else None)
            return state

    def give_back(self, claims: Iterable[Claim]) -> list[int | None]:
        """Puts jobs back into the queue as if they had not been started. Returns states as `finish` does."""
        with self._database.writing() as connection:
            return [self._return(connection, claim.seq, claim.turn, counted=False) for claim in claims]

    def disown(self, held: Mapping[int, int]) -> None:
        """Puts jobs back, given with their turns, that are written down as this server's and do not run here."""
        with self._database.writing() as connection:
            for seq, turn in held.items():
                self._return(connection, seq, turn, counted=True)

    def _return(self, connection: Connection, seq: int, turn: int, *, counted: bool) -> int | None:
        mine = self._mine(seq, turn)
        found = connection.execute(select(jobs.c.attempts, jobs.c.cancel_requested).where(mine)).one_or_none()
        if found is None:
            return None
        if not counted:
            connection.execute(update(jobs).where(mine).values(attempts=jobs.c.attempts - 1))
        return _left(connection, seq, found.attempts if counted else 0, found.cancel_requested)

    def _mine(self, seq: int, turn: int) -> ColumnElement[bool]:
        return (jobs.c.seq == seq) & (jobs.c.owner == self._owner) & (jobs.c.turn == turn)

    def held(self) -> dict[int, tuple[int, bool]]:
        """The jobs that are written down as this server's, by number: the turn, and whether to stop."""
        mine = (jobs.c.state == RUNNING) & (jobs.c.owner == self._owner)
        with self._database.reading() as connection:
            found = connection.execute(select(jobs.c.seq, jobs.c.turn, jobs.c.cancel_requested).where(mine))
            return {seq: (turn, asked) for seq, turn, asked in found}

    def note(self, progress: Mapping[Claim, pb.Progress]) -> None:
        """Writes down how far jobs are."""
        with self._database.writing() as connection:
            for claim, message in progress.items():
                mine = self._mine(claim.seq, claim.turn)
                connection.execute(update(jobs).where(mine).values(progress=message.SerializeToString()))

    def beat(self, served: float) -> tuple[float, dict[str, Beat]]:
        """Shows that this server lives.

        served: seconds in which a server has been running, as far as this one knows. Returns what all know, and the
        beat of each other server.
        """
        with self._database.writing() as connection:
            self._beat(connection)
            later = case((about.c.served > served, about.c.served), else_=served)
            connection.execute(update(about).values(served=later))
            known = connection.execute(select(about.c.served)).scalar_one()
            others = connection.execute(select(servers).where(servers.c.owner != self._owner))
            return known, {row.owner: Beat(row.beat, row.lease) for row in others}

    def _beat(self, connection: Connection) -> None:
        risen = update(servers).where(servers.c.owner == self._owner).values(beat=servers.c.beat + 1)
        if not connection.execute(risen).rowcount:
            # One that was taken for dead comes back with another beat than it had.
            shown = {"owner": self._owner, "beat": time.time_ns() // 1000, "lease": self._lease}
            connection.execute(insert(servers).values(shown))

    def bury(self, owner: str, beat: Beat) -> int:
        """Puts the jobs of a server back whose beat is still the one given, and returns how many."""
        with self._database.writing() as connection:
            gone = delete(servers).where(servers.c.owner == owner, servers.c.beat == beat.number)
            if not connection.execute(gone).rowcount:
                return 0
            left = (jobs.c.state == RUNNING) & (jobs.c.owner == owner)
            found = connection.execute(select(jobs.c.seq, jobs.c.attempts, jobs.c.cancel_requested).where(left)).all()
            for row in found:
                _left(connection, row.seq, row.attempts, row.cancel_requested)
            return len(found)

    def leave(self) -> None:
        """Takes this server off the list; it has no jobs any more."""
        with self._database.writing() as connection:
            connection.execute(delete(servers).where(servers.c.owner == self._owner))

    def forget(self, before: float, most: int = 50) -> int:
        """Deletes jobs that ended before a time in seconds served, some at a time, and returns how many."""
        with self._database.writing() as connection:
            old = select(jobs.c.seq).where(jobs.c.ended < before).limit(most)
            found = connection.execute(old).scalars().all()
            forget(connection, found)
            return len(found)


def _next(connection: Connection) -> int | None:
    """The number of the job to start now. Jobs are ended on the way whose answer has come in the meantime."""
    while True:
        row = _oldest(connection)
        if row is None:
            return None
        known = connection.execute(answered(row.tenant, row.content)).scalar()
        if known is None:
            return row.seq
        end(connection, row.seq, state=DONE, whole=True, source=pb.SOURCE_CACHED, result=known)


def _oldest(connection: Connection) -> Any:
    """The oldest job of the tenant whose turn it is: it runs the fewest, or was served the longest ago."""
    waiting = connection.execute(
        select(jobs.c.tenant, func.min(jobs.c.seq)).where(jobs.c.state == QUEUED).group_by(jobs.c.tenant)
    ).all()
    running = select(jobs.c.tenant, func.count()).where(jobs.c.state == RUNNING).group_by(jobs.c.tenant)
    busy: dict[str, int] = {row[0]: row[1] for row in connection.execute(running)}
    last = {
        tenant: connection.execute(select(func.max(jobs.c.turn)).where(jobs.c.tenant == tenant)).scalar() or 0
        for tenant, _ in waiting
    }
    asked = select(jobs.c.fingerprint).where(jobs.c.state == RUNNING)
    for tenant, _ in sorted(waiting, key=lambda entry: (busy.get(entry[0], 0), last[entry[0]], entry[1])):
        mine = (jobs.c.state == QUEUED) & (jobs.c.tenant == tenant)
        ready = mine & jobs.c.fingerprint.not_in(asked.where(jobs.c.tenant == tenant))
        found = select(jobs.c.seq, jobs.c.tenant, jobs.c.content).where(ready).order_by(jobs.c.seq).limit(1)
        if (row := connection.execute(found).one_or_none()) is not None:
            return row
    return None


def _left(connection: Connection, seq: int, attempts: int, cancel_requested: bool) -> int:
    """What becomes of a job whose server is gone, or could not write its end down."""
    if cancel_requested:
        end(connection, seq, state=CANCELLED)
        return CANCELLED
    if attempts >= MOST_STARTS:
        reason = to_status(
            ServiceError(f"the job was started {attempts} times, and no end of it could be written down")
        )
        end(connection, seq, state=FAILED, failure=reason.SerializeToString())
        return FAILED
    _requeue(connection, seq)
    return QUEUED


def _requeue(connection: Connection, seq: int) -> None:
    connection.execute(update(jobs).where(jobs.c.seq == seq).values(state=QUEUED, owner=None, progress=None))
