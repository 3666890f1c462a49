"""One run at a time on each accelerator of this host: runs take turns by locks that end with their process."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}
SAY_EVERY = 60  # seconds


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
    folder = Path(tempfile.gettempdir()) / f"m2det-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return (folder / device).open("a+")


def _lock(file: IO[str], device: str, run: str, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
    said = -float("inf")
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() - said > SAY_EVERY:
                file.seek(0)
                log.info("waiting for %s, which %s has", device, file.read())
                said = time.monotonic()
            time.sleep(1)
    file.truncate(0)
    file.write(f"run {run} (process {os.getpid()})")
    file.flush()
