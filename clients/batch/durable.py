"""Files that are replaced whole or not at all, and whose names outlive a loss of power."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...specs.errors import SpecError


def unwritable(path: Path, error: OSError) -> SpecError:
    """What is told where the system does not take a file."""
    return SpecError(
        f"{path}: cannot be written: {error.strerror or error}; what was written before is safe: mend that, "
        "and go on with --resume"
    )


def sync_folder(path: Path) -> None:
    """Wait until the disk knows the name of a file. Raises `OSError`."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system on which folders cannot be waited for
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place once it is written, and is gone if it is not. For whoever holds the
    lock. Raises `SpecError` where it cannot be written."""
    beside = Path(f"{path}.new")
    try:
        try:
            yield beside
            if path.exists():
                shutil.copymode(path, beside)
            descriptor = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(beside, path)
            sync_folder(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from None
