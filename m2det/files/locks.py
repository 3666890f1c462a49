"""A folder of unfinished work: named by everything that shapes the result, and worked on by one process at a time.

Its locks are POSIX record locks: a process's own, which those that are forked from it do not hold on to, as they would
to flock's; closing the file by any other handle would open them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m2det.errors import InputError

LOCK, WRITER = "lock", "writer"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else works on the folder inside; the kernel lets go of it when this process ends, however it ends.

    Raises InputError naming the process that does.
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
    """For the process that writes there: it waits for an earlier run's, which may be about to end, to be gone."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / WRITER).open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield
