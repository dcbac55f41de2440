"""The tables that keep jobs, in either make of database.

Requests and results are kept apart from what is looked at all the time: SQLite writes a row whole when any of it
changes.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

VERSION = 2
"""Of the tables. A database of another version is refused, never guessed at."""

metadata = MetaData()
_number = BigInteger().with_variant(Integer, "sqlite")

about = Table(
    "equipoise_about",
    metadata,
    Column("version", Integer, nullable=False),
    Column("turn", _number, nullable=False),  # starts of jobs so far
    Column("served", Float, nullable=False),  # seconds in which a server has been running
)
servers = Table(
    "equipoise_servers",
    metadata,
    Column("owner", String(32), primary_key=True),
    Column("beat", _number, nullable=False),  # rises as long as the server lives
    Column("lease", Float, nullable=False),  # seconds for which it may stand still
)
jobs = Table(
    "equipoise_jobs",
    metadata,
    Column("seq", _number, primary_key=True),  # order of arrival, whatever the clock says
    Column("id", String(32), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("state", Integer, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("name", String, nullable=False),
    Column("idempotency_key", String(128)),
    Column("fingerprint", String(64), nullable=False),  # of all that was asked for
    Column("content", String(64), nullable=False),  # of all that determines the answer
    Column("size", _number, nullable=False),  # bytes of the request
    Column("result", _number),  # the result that is this job's, and of those with the same question
    Column("created", Float, nullable=False),  # the clock's time, to be shown and for nothing else
    Column("started", Float),
    Column("finished", Float),
    Column("attempts", Integer, nullable=False, default=0),
    Column("lost", Integer, nullable=False, default=0),  # workers that died over it
    Column("owner", String(32)),  # the server that runs it
    Column("turn", _number),  # of its latest start: with the owner, the token that its end must show
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("progress", LargeBinary),
    Column("failure", LargeBinary),
    Column("whole", Boolean, nullable=False, default=False),  # no limit cut the result short
    Column("source", Integer, nullable=False, default=0),
    Column("ended", Float),  # in seconds served
    UniqueConstraint("tenant", "idempotency_key"),
    Index("equipoise_jobs_queue", "state", "tenant", "seq", "size"),  # holds all that the bounds ask about
    Index("equipoise_jobs_list", "tenant", "id"),
    Index("equipoise_jobs_content", "tenant", "content"),
    Index("equipoise_jobs_turn", "tenant", "turn"),
    Index("equipoise_jobs_ended", "ended"),
    Index("equipoise_jobs_kept", "tenant", "ended", "seq"),
    Index("equipoise_jobs_result", "result"),
    sqlite_autoincrement=True,
)
requests = Table(
    "equipoise_requests",
    metadata,
    Column("seq", _number, ForeignKey(jobs.c.seq, ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)
results = Table(
    "equipoise_results",
    metadata,
    Column("seq", _number, primary_key=True, autoincrement=False),  # of the job that was solved, which may be gone
    Column("tenant", String(64), nullable=False),
    Column("size", _number, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("equipoise_results_kept", "tenant", "size"),
)
