"""The flow behind the deployments: DVC decides what must be rebuilt, Prefect keeps states, logs and retries.

A run works in a copy of its own (flows.run_copy), with settings that are fixed when it starts. One task per DVC
stage, each a child process `python -m dvc repro --single-item STAGE`; the stage that DVC starts joins as a subflow of
its task (flows.stage). At the end the copy becomes an experiment, which flows.apply puts into the working copy.
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
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run, task_run
from prefect.states import Completed, Failed, State

from flows.apply import apply as apply_outcome
from flows.commit import describe_commit
from flows.parameters import STAGES, Overrides, Recipe, Stages, check_stages
from flows.preflight import preflight
from flows.run_copy import OUTCOME, RUNS, RunCopy, git, remove, require_repository, run_copy
from flows.run_name import rename_run, run_name
from flows.settings import checked_settings, write_settings
from flows.stage import PARENT_TASK_RUN
from m2det.distributed.children import relay_child
from m2det.errors import InputError
from tasks.common import PARAMS


@flow(name="m2det", version=describe_commit(), persist_result=False)
def m2det(
    recipe: Recipe = None,
    stages: Stages = [],  # noqa: B006 - Prefect shows it as the default, and nothing changes it
    overrides: Overrides = {},  # noqa: B006
    apply: bool = True,
) -> State[None]:
    """From data to a trained model, its metrics and its pictures.

    The run works in a copy of the project and ends as a DVC experiment. A wrong argument fails the run with one
    sentence, before a task starts or a file is written.

    Args:
        recipe: a name that `m2det recipes` lists; its values replace those of params.yaml, except data.root,
            data.outside and data.mirror. None (null): params.yaml holds as it is when the run starts.
        stages: run these stages alone, in this order; the last one even if it is up to date, to repeat a measurement.
            Empty: all stages.
        overrides: values for keys of params.yaml, nested as there, such as {"epochs": 160, "train": {"lr": 0.01}}.
            A field that stays empty keeps the recipe's value.
        apply: put the results into the working copy at the end, with params.yaml except its section run, if the
            working copy's settings, results and code are still those of the start.
    """
    try:
        check_stages(stages)
        settings = checked_settings(recipe, overrides)
        require_repository()
        # a name that git takes for an experiment
        with run_copy(re.sub(r"[^\w-]+", "-", f"{deployment.name or 'm2det'}-{flow_run.id[:8]}")) as copy:
            write_settings(copy.folder / PARAMS, recipe, overrides)
            rename_run(run_name(recipe, settings, stages, copy.baseline))
            _show(copy, recipe, overrides)
            ready = preflight(str(copy.folder), stages or STAGES, return_state=True)
            if not ready.is_completed():
                return Failed(message=ready.message)
            for stage in stages or STAGES:
                forced = stage in stages[-1:]
                named = reproduce.with_options(name=stage, task_run_name=stage)
                state = named(str(copy.folder), stage, forced, return_state=True)
                if not state.is_completed():
                    get_run_logger().info("the copy stays until the next run of its name: %s", copy.folder.absolute())
                    return Failed(message=state.message)
            return Completed(message=_conclude(copy, apply))
    except InputError as error:
        return Failed(message=str(error))


@task(cache_policy=NO_CACHE, persist_result=False)
def reproduce(folder: str, stage: str, forced: bool) -> State[None] | None:
    """Bring one stage's outputs in the run's copy up to date; forced, run it in any case."""
    return _dvc("--cd", folder, "repro", "--single-item", *["--force"] * forced, stage)


def _show(copy: RunCopy, recipe: str | None, overrides: dict[str, Any]) -> None:
    """Tell on the run's page where it works and with which settings."""
    settings = (copy.folder / PARAMS).read_text()
    log = get_run_logger()
    log.info("works in %s", copy.folder.absolute())
    log.info("settings: recipe %s, overrides %s; all of them are the artifact settings", recipe, overrides)
    create_markdown_artifact(f"```yaml\n{settings}```", key="settings", description=f"params.yaml of {copy.name}")


def _conclude(copy: RunCopy, apply: bool) -> str:
    """Make the copy an experiment, put its outcome into the working copy if asked to, and say what was done."""
    commit = copy.commit()
    copy.save(commit, copy.name)
    kept = [name for name in OUTCOME if git(copy.folder, "ls-tree", commit, "--", name)]
    command = f"git restore --source={commit[:12]} -- {' '.join(kept)} && dvc checkout --allow-missing"
    said = f"experiment {copy.name}; to put it into the working copy: {command}"
    if apply:
        try:
            apply_outcome(copy)
            said = f"experiment {copy.name}, put into the working copy"
        except InputError as error:
            said = f"not put into the working copy: {error}; {said}"
    remove(RUNS / copy.name)
    get_run_logger().info(said)
    return said


def _dvc(*arguments: str) -> State[None] | None:
    """Run DVC with its output in this task's log; return a failed state with the stage's error."""
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
