"""Processes that end together: no child outlives the process that started it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from m2det.distributed.grace import STOPS

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc's <malloc.h>
_libc = ctypes.CDLL(None)  # loaded here: as little as possible may happen between fork and exec


def keep_freed_memory() -> None:
    """From now on up to 128 MiB that were freed wait for their next use, instead of going back to the system.

    For a process that takes and frees blocks of 0.1 to 16 MiB all the time: to get them page by page, zeroed, takes as
    long as to fill them. Where the C library is not glibc it does nothing.
    """
    mallopt = getattr(_libc, "mallopt", lambda *_: 0)
    for option, size in ((M_TRIM_THRESHOLD, 128 << 20), (M_TOP_PAD, 64 << 20), (M_MMAP_THRESHOLD, 32 << 20)):
        mallopt(option, size)


def usable_cores() -> int:
    """The processors that this process may run on, which a batch system or `taskset` limits; a quota of time is not
    looked at."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_exit(code: int | None) -> str:
    """How a process ended, by multiprocessing's exit code: below 0 a signal's."""
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def die_with_parent(parent: int) -> None:
    """Ask the kernel to send this process SIGTERM when its parent, the process `parent`, ends.

    Linux only; elsewhere it does nothing. For a child: `preexec_fn=partial(die_with_parent, os.getpid())`.
    """
    if sys.platform != "linux":
        return
    _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def start(process: BaseProcess) -> None:
    """Start it with signals to stop blocked, for good: one to the whole group is this process's to answer.

    So is the fork server, where there is one and this is its first process.
    """
    if multiprocessing.get_start_method() != "fork":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # which unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_starter() -> None:
    """For a process of multiprocessing's, however started: it is killed when the one that asked for it ends, also
    while it is stopped."""
    from multiprocessing import forkserver

    starter = multiprocessing.parent_process()
    assert starter is not None
    if sys.platform == "linux":
        _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)  # the parent is the starter or the fork server,
        server: Any = forkserver._forkserver
        if server._forkserver_alive_fd is not None:
            os.close(server._forkserver_alive_fd)  # which ends when nobody but the starter, who has ended, had this
            server._forkserver_alive_fd = None
    by_server = forkserver.get_inherited_fds() is not None
    if not starter.is_alive() if by_server else os.getppid() != starter.pid:
        os._exit(128 + signal.SIGKILL)  # the starter ended before we asked


def end_after_parent(parent: int, grace: float) -> None:
    """End this process, whatever it waits for, `grace` seconds after its parent has ended; a thread looks."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(grace)
        os._exit(128 + signal.SIGKILL)

    Thread(target=look, daemon=True).start()
