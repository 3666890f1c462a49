"""Read regular files only: opening a FIFO would block, and reading a device might never end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from m2det.errors import InputError


def read_file(path: str | Path) -> bytes:
    """Return the content of a regular file. Raises InputError as open_regular does."""
    with open_regular(path) as file:
        return file.read()


@contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file to read it. Raises InputError if the file cannot be opened or read, or is no regular one."""
    try:
        require_regular(path, os.stat(path))  # noqa: PTH116 - quicker, and done for each image
        with open(path, "rb", opener=_open_nonblocking) as file:
            # the name may have become another file's since
            require_regular(path, os.fstat(file.fileno()))
            yield file
    except OSError as error:
        raise unreadable(path, error) from error


def require_regular(path: str | Path, status: os.stat_result) -> None:
    """Raise InputError unless `os.stat` shows a regular file."""
    if not S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file but a folder, a pipe or a device, which are not read; replace it")


def real_path(file: BinaryIO, path: str | Path) -> str:
    """Return the real path of an open file: on Linux the kernel's, else by a name that may have changed since."""
    if sys.platform == "linux":
        return os.readlink(f"/proc/self/fd/{file.fileno()}")  # noqa: PTH115 - quicker
    return os.path.realpath(path)


def unreadable(path: str | Path, error: OSError) -> InputError:
    """Return the error that names the path and the reason."""
    return InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}")


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO that has come since would wait for someone to write
