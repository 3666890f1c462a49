"""Processes that end together: no child outlives the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None)  # loaded here: as little as possible may happen between fork and exec


def die_with_parent(parent: int) -> None:
    """Ask the kernel to send this process SIGTERM when its parent, the process `parent`, ends.

    Linux only; elsewhere it does nothing. For a child: `preexec_fn=partial(die_with_parent, os.getpid())`.
    """
    if sys.platform != "linux":
        return
    _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)
