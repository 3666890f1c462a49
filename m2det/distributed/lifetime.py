"""How long a process lives: it ends with its parent; and what a process may use of its machine."""

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

from m2det.distributed.shutdown import STOP_SIGNALS

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc's <malloc.h>
_libc = ctypes.CDLL(None)  # loaded here: as little as possible may happen between fork and exec


def keep_freed_memory() -> None:
    """Keep up to 128 MiB of freed memory for reuse instead of returning it to the system; glibc only.

    For a process that allocates and frees blocks of 0.1 to 16 MiB all the time: getting them from the system page by
    page, zeroed, takes as long as filling them.
    """
    mallopt = getattr(_libc, "mallopt", lambda *_: 0)
    for option, size in ((M_TRIM_THRESHOLD, 128 << 20), (M_TOP_PAD, 64 << 20), (M_MMAP_THRESHOLD, 32 << 20)):
        mallopt(option, size)


def usable_cores() -> int:
    """Return how many cores this process may run on, by its CPU affinity; a quota of CPU time is not considered."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_exit(code: int | None) -> str:
    """Return a phrase on how a process ended, by multiprocessing's exit code: below 0 a signal's."""
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def die_with_parent(parent: int) -> None:
    """Ask the kernel to send this process SIGTERM when its parent, the process `parent`, ends; Linux only.

    In a child: `preexec_fn=partial(die_with_parent, os.getpid())`.
    """
    if sys.platform != "linux":
        return
    _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the request
        os.kill(os.getpid(), signal.SIGTERM)


def start(process: BaseProcess) -> None:
    """Start a process of multiprocessing in which signals to stop are blocked, so that only its starter handles them.

    They are also blocked in the fork server, if this starts one.
    """
    # its context's, if it has one
    method = getattr(process, "_start_method", None) or multiprocessing.get_start_method()
    if method != "fork":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # it unblocks the signals, so it must not start later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_starter() -> None:
    """Have this process of multiprocessing killed when its starter ends, also while it is stopped by SIGSTOP."""
    from multiprocessing import forkserver

    starter = multiprocessing.parent_process()
    assert starter is not None
    if sys.platform == "linux":
        # the kernel kills when the parent ends: the starter, or the fork server
        _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        server: Any = forkserver._forkserver
        if server._forkserver_alive_fd is not None:
            os.close(server._forkserver_alive_fd)  # the fork server ends when only an ended starter had this open
            server._forkserver_alive_fd = None
    by_server = forkserver.get_inherited_fds() is not None
    if not starter.is_alive() if by_server else os.getppid() != starter.pid:
        os._exit(128 + signal.SIGKILL)  # the starter ended before the request


def end_after_parent(parent: int, grace: float) -> None:
    """Start a thread that ends this process, whatever it waits for, `grace` seconds after its parent has ended."""

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(grace)
        os._exit(128 + signal.SIGKILL)

    Thread(target=watch_parent, daemon=True).start()
