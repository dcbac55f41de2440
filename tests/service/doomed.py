"""A program: a server of jobs that is there to be killed. Its argument is the address of the store; a line for each
answer tells how far it is."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from equipoise.server.job_queue import JobQueue
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.store import Store

LIFE = 60.0
"""Seconds after which it ends by itself."""


def plan(number: int, stopped: str = "solved", padding: int = 0) -> bytes:
    """The answer to a job, a serialised SolveResponse."""
    document = pb.Document(json=json.dumps({"number": number, "padding": " " * padding}))
    certificate = pb.Certificate(stopped=stopped)
    return pb.SolveResponse(plan=pb.Plan(document=document, certificate=certificate)).SerializeToString()


class _Slow:
    async def solve(self, request: bytes, **options: Any) -> bytes:
        await asyncio.sleep(0.05)
        print("answered", flush=True)
        return plan(json.loads(pb.SolveRequest.FromString(request).spec.json)["number"])


async def _serve(url: str) -> None:
    await JobQueue(Store(url), _Slow(), slots=4).start()
    await asyncio.sleep(LIFE)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
