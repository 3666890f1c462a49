"""One run at a time on each accelerator of this host, whoever starts it: locks, which end with their process."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from m2det.errors import InputError
from m2det.text import printable

FOLDER = Path("/tmp/m2det-devices")  # of all users, and wherever TMPDIR points
VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}
SAY_EVERY = 60  # seconds
MAX_HOLDER = 200  # characters of a line on who has a device


@contextmanager
def hold_devices(
    kind: str, count: int, run: str, log: logging.Logger | logging.LoggerAdapter[logging.Logger]
) -> Iterator[None]:
    """Hold this host's first accelerators inside the block; wait for runs that have them, and say for whom.

    Args:
        kind: cpu, cuda or npu; a CPU is shared.
        count: how many.
        run: name for those who wait.
        log: takes one line a minute while this run waits.

    Raises:
        InputError: the locks cannot be opened.
    """
    with ExitStack() as stack:
        for device in host_devices(kind, count):
            _lock(stack.enter_context(_open(device)), device, run, log)
        yield


def host_devices(kind: str, count: int) -> list[str]:
    """Return the names of the accelerators of that many processes, such as npu0, in the same order for all runs."""
    if kind == "cpu":
        return []
    visible = [index.strip() for index in os.environ.get(VISIBLE[kind], "").split(",") if index.strip()]
    indices = visible or [str(index) for index in range(count)]
    return sorted(f"{kind}{index}" for index in indices[:count])


def _open(device: str) -> IO[str]:
    """Open the file of a device's lock, which any user may lock and write.

    Other users may have put anything in its place, so no link is followed.
    """
    name = device.replace("/", "-")  # parts of a GPU are named like MIG-GPU-.../1/0
    try:
        with _open_mask():
            FOLDER.mkdir(mode=0o1777, exist_ok=True)
            folder = os.open(FOLDER, os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                # apart from opening: Linux may refuse O_CREAT for a file of another user in such a folder
                with suppress(FileExistsError):
                    os.close(os.open(name, os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder))
                file = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise InputError(
            f"{FOLDER / name}: {error.strerror}; by this lock the runs of all users take turns at a device, a file of "
            f"mode 666 in a folder of mode 1777: have {FOLDER} removed while no run is at work"
        ) from error
    return os.fdopen(file, "r+", errors="replace")


@contextmanager
def _open_mask() -> Iterator[None]:
    """Set this process's umask aside inside the block."""
    mask = os.umask(0)
    try:
        yield
    finally:
        os.umask(mask)


def _lock(file: IO[str], device: str, run: str, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
    said = -float("inf")
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() - said > SAY_EVERY:
                file.seek(0)
                log.info("waiting for %s, which %s has", device, printable(file.read(MAX_HOLDER)))
                said = time.monotonic()
            time.sleep(1)
    file.seek(0)
    file.truncate()
    file.write(f"run {run} (process {os.getpid()})")
    file.flush()
