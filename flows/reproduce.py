"""A stage of a run as one Prefect task: `python -m dvc repro --single-item STAGE`, whose output is the task's log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed, State

from flows.ending import SIGNALS, stopped
from flows.log import is_advice, task_log
from flows.progress import progress_artifact
from flows.stage import PLAIN
from m2det.distributed.children import relay_child


@task(cache_policy=NO_CACHE, persist_result=False)
def reproduce(folder: str, stage: str, forced: bool) -> State[None] | None:
    """Bring one stage's outputs in the run's copy up to date; forced, run it in any case.

    Returns:
        A failed state with the stage's error, or the state of a stage that a signal has ended.
    """
    log = task_log()
    lines: deque[str] = deque(maxlen=20)

    def write(line: str) -> None:
        if line and not is_advice(line):
            log.info("%s", line)
            lines.append(line)

    command = [sys.executable, "-m", "dvc", "--cd", folder, "repro", "--single-item", *["--force"] * forced, stage]
    environment = {
        **os.environ,
        PLAIN: "1",
        # the stages' commands say `python`: this one
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
    }
    try:
        with progress_artifact(stage, Path(folder).parent) as reports:
            relay_child(command, write, env={**environment, **reports})
    except subprocess.CalledProcessError:
        return Failed(message=failure(lines))
    except SIGNALS as signal:
        return stopped(signal)
    return None


def failure(lines: Iterable[str]) -> str:
    """Return what failed and why, from DVC's last lines: the line `error: ...` of a stage, or the last five."""
    lines = list(lines)
    stage = re.search(r"failed to reproduce '(.+?)'", "\n".join(lines))
    sentences = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    why = sentences[-1] if sentences else "\n".join(lines[-5:])
    return f"stage {stage[1]} failed: {why}" if stage else f"DVC failed: {why}"
