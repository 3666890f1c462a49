"""A folder of unfinished work: named by everything that shapes the result, and worked on by one process at a time.

Its locks are POSIX record locks: a process's own, which those that are forked from it do not hold on to, as they would
to flock's; closing the file by any other handle would open them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
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


def digest(*parts: bytes) -> str:
    """sha256 over length-prefixed parts, hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def file_sha256(path: Path) -> str:
    """Of the file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(paths: Iterable[Path], root: Path) -> str:
    """sha256 over names (relative to root) and contents, in name order."""
    return digest(
        *(part for path in sorted(paths) for part in (str(path.relative_to(root)).encode(), path.read_bytes()))
    )


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """For the process that writes there: it waits for an earlier run's, which may be about to end, to be gone."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / WRITER).open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield
