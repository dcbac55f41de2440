"""The two streams of the command line: results on standard output, everything else on standard error.

Also what every command has in common: whatever goes wrong becomes lines on standard error and an exit code.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec

import typer
from rich.console import Console
from rich.text import Text

from ..failures import BROKEN_PIPE, Failure, failure_of

DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
"""Whether the traceback of a bug is shown."""

Arguments = ParamSpec("Arguments")


class _Console(Console):
    """A console on which a broken pipe is an exception like any other, not an exit with a code of rich's choice."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def results() -> Console:
    """Standard output. Made anew for every command, since tests and callers exchange the stream."""
    return _Console(highlight=False, markup=False, emoji=False)


def messages() -> Console:
    """Standard error."""
    return _Console(stderr=True, highlight=False, markup=False, emoji=False)


def open_streams() -> None:
    """Have all three standard streams, empty where they are closed: else the first file that is opened, results maybe,
    gets the number of one, and with it what is written there."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which gets the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # it stays


def plain(text: str) -> str:
    """A text from a file, without what would steer the terminal: other than line ends, only what can be seen."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)


def tell(failure: Failure, file: str | None = None) -> None:
    """Print a failure as `error: …` lines."""
    console = messages()
    for line in failure.lines(file):
        for number, part in enumerate(plain(line).splitlines()):
            start = ("error: ", "bold red") if number == 0 else "  "
            console.print(Text.assemble(start, part), soft_wrap=True)
    if failure.trace and DEBUG.get():
        console.print(Text(failure.trace), soft_wrap=True)


def answering(command: Callable[Arguments, int]) -> Callable[Arguments, None]:
    """A command that returns its exit code, as typer runs it."""

    @functools.wraps(command)
    def run(*arguments: Arguments.args, **options: Arguments.kwargs) -> None:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]  # a sign lost, not the plan
        try:
            code = command(*arguments, **options)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = BROKEN_PIPE
        except (Exception, KeyboardInterrupt) as error:
            failure = failure_of(error)
            tell(failure)
            code = failure.code
        raise typer.Exit(code)

    return run


def leave(code: object) -> None:
    """End the process at once, under an exit code, if a backend that was given up still runs: it would abort the
    interpreter as that shuts down, and the exit code with it."""
    control = sys.modules.get(f"{(__package__ or '').rpartition('.clients')[0]}.solvers.control")
    if control is None or not control.abandoned():
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)
