"""The first task of a run: what would fail in hours is found in seconds, before the run waits for anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed, State

from flows.ending import SIGNALS, stopped
from m2det.distributed.lifetime import die_with_parent


class Machine(NamedTuple):
    """What a run computes with: the device's type, None for none, and the number of processes."""

    device: str | None
    processes: int


@task(name="preflight", task_run_name="preflight", cache_policy=NO_CACHE, persist_result=False)
def preflight(folder: str, stages: Sequence[str]) -> Machine | State[Any]:
    """Check what the stages need (tasks.preflight), all of it.

    Args:
        folder: the run's copy.
        stages: in their order; the last one will run even if it is up to date.

    Returns:
        What the stages compute with; a failed state with all findings in its message if there are any.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tasks.preflight", *stages],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    except SIGNALS as signal:
        return stopped(signal)
    log = get_run_logger()
    if done.returncode:
        log.error("%s", done.stderr)
        last = done.stderr.strip().splitlines()[-1:] or [f"its process has ended with {done.returncode}"]
        return Failed(message=f"preflight failed: {last[0]}")
    result = json.loads(done.stdout.splitlines()[-1])
    if findings := result["findings"]:
        # which Prefect logs as this task's error
        return Failed(message=f"preflight: {len(findings)} finding{'s'[: len(findings) > 1]}: {'; '.join(findings)}")
    machine = Machine(result["device"], result["processes"])
    log.info("preflight: nothing is missing; device %s, %d processes", *machine)
    return machine
