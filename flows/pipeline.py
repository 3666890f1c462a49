"""The flow behind the deployments: DVC decides what must be rebuilt, Prefect keeps states, logs and retries.

One task per DVC stage, each a child process `python -m dvc repro --single-item STAGE`; the stage that DVC
starts joins as a subflow of its task (flows.stage). With overrides, one task for `dvc exp run`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.states import Failed, State

from flows.changes import checked_changes, set_params
from flows.stage import PARENT_TASK_RUN
from m2det.distributed.children import relay_child
from m2det.errors import InputError

STAGES = ("data", "pack", "ops", "weights", "train", "evaluate", "benchmark", "performance")


@flow(name="m2det", persist_result=False)
def m2det(
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    isolated: bool = False,
    only: list[str] | None = None,
) -> State[None] | None:
    """From data to a trained model, its metrics and its pictures.

    A wrong argument fails the run with one sentence, before a task starts or a file is written.

    Args:
        recipe: a name that `m2det recipes` lists; its values replace those of params.yaml, except data.root,
            data.outside and data.mirror.
        overrides: values for keys of params.yaml, such as {"epochs": 160, "train.lr": 0.01}; they replace the
            recipe's. With a recipe or overrides, the run is a DVC experiment in the working copy.
        isolated: run the experiment in a temporary copy and leave the working copy as it is.
        only: run these stages alone, in this order; the last one even if it is up to date, to repeat a measurement.
    """
    try:
        check_stages(only or [], isolated)
        changes = checked_changes(recipe, overrides)
    except InputError as error:
        return Failed(message=str(error))
    if only:
        for stage in only:
            forced = stage == only[-1]
            single = alone.with_options(name=stage, task_run_name=stage)
            if failed := _outcome(single(stage, forced, changes if stage == only[0] else {}, return_state=True)):
                return failed
        return None
    if changes or isolated:
        return _outcome(experiment(changes, isolated, return_state=True))
    for stage in STAGES:
        named = reproduce.with_options(name=stage, task_run_name=stage)
        if failed := _outcome(named(stage, return_state=True)):
            return failed
    return None


@task(cache_policy=NO_CACHE, persist_result=False)
def reproduce(stage: str) -> State[None] | None:
    """Bring one stage's outputs up to date."""
    return _dvc("repro", "--single-item", stage)


@task(cache_policy=NO_CACHE, persist_result=False)
def alone(stage: str, forced: bool, overrides: dict[str, Any]) -> State[None] | None:
    """Run one stage, with overrides if there are any, which stay in params.yaml."""
    options = ["--single-item", *["--force"] * forced, stage]
    return _dvc("exp", "run", *set_params(overrides), *options) if overrides else _dvc("repro", *options)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="experiment")
def experiment(overrides: dict[str, Any], isolated: bool) -> State[None] | None:
    """Run all stages as an experiment with these overrides."""
    return _dvc("exp", "run", *["--temp"] * isolated, *set_params(overrides))


def check_stages(only: list[str], isolated: bool) -> None:
    """Raise InputError for a stage that does not exist or is named twice, and for stages of an isolated run."""
    if unknown := [stage for stage in only if stage not in STAGES]:
        raise InputError(f"only: no stage is called {unknown[0][:80]!a}; there are {', '.join(STAGES)}")
    if len(set(only)) != len(only):
        raise InputError(f"only: {next(stage for stage in only if only.count(stage) > 1)} is named twice; once will do")
    if only and isolated:
        raise InputError("only and isolated do not go together: a temporary copy would hold one stage's results each")


def _outcome(state: State[Any]) -> State[None] | None:
    return None if state.is_completed() else Failed(message=state.message)


def _dvc(*arguments: str) -> State[None] | None:
    """Run DVC with its output in this task's log; return a failed state with the stage's error."""
    if inside := os.environ.get("DVC_STAGE"):
        return Failed(message=f"the flow cannot run inside the DVC stage {inside}, whose files DVC has locked")
    log = get_run_logger()
    lines: deque[str] = deque(maxlen=20)

    def write(line: str) -> None:
        if line:
            log.info("%s", line)
            lines.append(line)

    environment = os.environ | {
        PARENT_TASK_RUN: str(task_run.get_id()),
        # the stages' commands say `python`: this one
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the rest would be logged twice
    }
    try:
        relay_child([sys.executable, "-m", "dvc", *arguments], write, env=environment)
    except subprocess.CalledProcessError:
        return Failed(message=failure(lines))
    return None


def failure(lines: Iterable[str]) -> str:
    """Return what failed and why, from DVC's last lines: the line `error: ...` of a stage, or the last five."""
    lines = list(lines)
    stage = re.search(r"failed to reproduce '(.+?)'", "\n".join(lines))
    sentences = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    why = sentences[-1] if sentences else "\n".join(lines[-5:])
    return f"stage {stage[1]} failed: {why}" if stage else f"DVC failed: {why}"
