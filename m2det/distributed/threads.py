"""How many threads a process computes with on a CPU, and how these wait for each other."""

from __future__ import annotations

import os
from collections.abc import Mapping

from m2det.distributed.lifetime import usable_cores

# Turns of libgomp's waiting loop before a thread sleeps: microseconds, in which the next operator usually begins. Its
# default is milliseconds, the time slice of another program that has taken the core of the thread that is waited for.
# Measured by benchmarks/busy.py: docs/benchmarks/busy.md.
SPIN_COUNT = 2000


def spin_briefly() -> None:
    """Let OpenMP's threads sleep soon when they wait, unless the user's environment says how; call before torch loads.

    A step has hundreds of operators, each of which ends when its last thread does. Beside other programs some thread
    has always lost its core for a moment, and the others would burn theirs until it is back.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


def threads_of_each(processes: int) -> Mapping[str, str]:
    """Return the environment variable that shares this machine's cores between processes on a CPU."""
    return {"OMP_NUM_THREADS": str(max(1, usable_cores() // processes))}


def load_average() -> float | None:
    """Return how many processes wanted a core in the last minute, on average; None where the platform has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe_load() -> str:
    """Return the machine's load and this process's threads, such as "load 8.1 on 2 cores, 2 threads"."""
    import torch

    average = load_average()
    load = "" if average is None else f"load {average:.1f} on "
    return f"{load}{_counted(usable_cores(), 'core')}, {_counted(torch.get_num_threads(), 'thread')}"


def describe_waiting() -> str:
    """Return how OpenMP's threads wait, by the environment variables that decide it."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    return ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ) or "OpenMP's default"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
