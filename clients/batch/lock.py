"""Who may write to an output: one batch at a time, and one that goes on with another's results under its options.

The lock is a `flock` on a file beside the output that says whose it is and under which options the results were made.
The system takes it back when the program ends, however that happens; the file stays, for whoever goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...specs.errors import SpecError, shown
from .durable import sync_folder, unwritable

_TRIES = 100
_LARGEST = 1 << 20


class Lock:
    """The right to write to an output, held until `release`."""

    def __init__(self, path: Path, output: Path) -> None:
        """Raises `SpecError` where another batch holds it, or nobody can."""
        self.path, self._output = path, output
        self._descriptor = self._take()

    def _take(self) -> int:
        for _ in range(_TRIES):
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise unwritable(self.path, error) from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its holder may have put another file in the place of the one that was just opened.
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    return descriptor
            except BlockingIOError:
                said = _said(descriptor)
                os.close(descriptor)
                raise SpecError(_held(self._output, said)) from None
            except FileNotFoundError:
                pass
            except OSError as error:
                os.close(descriptor)
                raise SpecError(
                    f"{self.path}: cannot be locked ({error.strerror or error}), and without a lock two batches may "
                    "write to one output; write to a local folder, and copy the results"
                ) from None
            os.close(descriptor)
        raise SpecError(_held(self._output, None))

    def options(self) -> Mapping[str, Any] | None:
        """The options of the batch before; None where there was none. Raises `SpecError` where that is not readable."""
        said = _said(self._descriptor)
        if said is None and not os.fstat(self._descriptor).st_size:
            return None
        options = None if said is None else said.get("options")
        if not isinstance(options, Mapping):
            raise SpecError(
                f"{self.path}: does not say under which options {self._output} was made, as a batch writes it there; "
                "name another output"
            )
        return options

    def write(self, options: Mapping[str, Any]) -> None:
        """Say whose the output is now, and under which options the results are made; the file is replaced whole."""
        document = {"version": version("equipoise"), "pid": os.getpid(), "host": socket.gethostname()}
        data = json.dumps(document | {"options": options}, indent=1, allow_nan=False).encode() + b"\n"
        beside = Path(f"{self.path}.new")
        descriptor = -1
        try:
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before anybody can see it
            with open(descriptor, "wb", closefd=False) as stream:
                stream.write(data)
            os.fsync(descriptor)
            os.replace(beside, self.path)
            sync_folder(self.path)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            beside.unlink(missing_ok=True)
            raise unwritable(self.path, error) from None
        os.close(self._descriptor)
        self._descriptor = descriptor

    def release(self) -> None:
        """Leave the output to others."""
        if self.held:
            with suppress(OSError):
                if not os.fstat(self._descriptor).st_size:  # nothing was written under it
                    self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def held(self) -> bool:
        """Whether it is."""
        return self._descriptor >= 0


def refuse_other_options(output: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises `SpecError`, naming every option, where results would be made under others than those that are there."""
    now = json.loads(json.dumps(now, allow_nan=False))  # as the file has them
    other = [
        f"{name} {_value(before, name)} (now {_value(now, name)})"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if other:
        raise SpecError(
            f"{output}: its results were made with {', '.join(other)}; "
            "go on with the options of then, or name another output"
        )


def _value(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name)
    return "not given" if value is None else shown(value)


def _said(descriptor: int) -> Mapping[str, Any] | None:
    try:
        document = json.loads(os.pread(descriptor, _LARGEST, 0))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, Mapping) else None


def _held(output: Path, said: Mapping[str, Any] | None) -> str:
    who = "" if said is None else f" (process {shown(said.get('pid'))} on {shown(said.get('host'))})"
    return f"{output}: another batch{who} writes to it; wait until that ends, or name another output"
