"""Locks of a folder of unfinished work, for one process at a time.

They are POSIX record locks: forked processes do not inherit them, as they would inherit flock's; closing any other
handle of the lock file releases them.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m2det.errors import InputError

log = logging.getLogger(__name__)

LOCK, WRITER = "lock", "writer"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the block; the kernel releases the lock when this process ends, however it ends.

    Raises:
        InputError: Another process, which the message names, holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(f"the process {file.read()} works in {folder} already; wait for it, or end it") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def exclusive_writer_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of the process that writes in the folder; wait until an earlier run's process has ended.

    A wait is logged with the process that is waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / WRITER).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            log.warning(
                "warning: waiting for process %s, which still writes in %s; end it if it hangs", file.read(), folder
            )
            fcntl.lockf(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
