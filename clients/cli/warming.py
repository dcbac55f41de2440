"""What `equipoise warmup` does: the machine code of each algorithm, compiled or found on disk, told in a table."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from ...specs.errors import BackendError
from ...specs.spec import kind as kind_of
from .figures import duration
from .progress import ProgressDisplay


def warm_up(kinds: Sequence[str], console: Console, display: Callable[[], ProgressDisplay]) -> None:
    """Have the machine code of some kinds ready, and print what it took. Raises `SpecError` for an unknown kind and
    `BackendError` where nothing can be kept on disk."""
    for kind in kinds:
        kind_of(kind)
    from ...solvers.algorithms import load
    from ...solvers.machine import made

    table = Table("kind", "functions", "compiled now", "seconds", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    kept = True
    for kind in kinds:
        before = len(made)
        with display() as watch:
            loaded = load(kind, watch)
        parts = made[before:]
        kept &= all(part.kept for part in parts)
        new = sum(not part.found for part in parts)
        table.add_row(kind, str(len(parts)), str(new), duration(loaded.seconds) if loaded else "no algorithm")
    console.print(table)
    if not kept:
        raise BackendError(
            "the machine code could not be kept: neither the package's folder nor the user's cache folder can be "
            f"written to; set NUMBA_CACHE_DIR (now {os.environ.get('NUMBA_CACHE_DIR', 'not set')}) to one that can"
        )
