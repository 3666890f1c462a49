"""The flow behind the deployments: DVC decides what must be rebuilt, Prefect keeps states, logs and retries.

A run works in a copy of its own (flows.run_copy), with settings that are fixed when it starts. One task per DVC
stage, each a child process `python -m dvc repro --single-item STAGE`, whose output is the task's log. At the end the
copy becomes an experiment, which flows.apply puts into the working copy.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect import flow, get_client, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed, Crashed, Failed, State

from flows.apply import apply as apply_outcome
from flows.devices import hold_devices
from flows.guard import guarded
from flows.log import is_advice, leave_out_repetitions, task_log
from flows.run_copy import OUTCOME, RUNS, RunCopy, git, remove, require_repository, run_copy
from flows.settings import checked_settings, write_settings
from flows.stage import PLAIN
from m2det.distributed.children import relay_child
from m2det.errors import InputError
from tasks.common import PARAMS

STAGES = ("data", "pack", "ops", "weights", "train", "evaluate", "benchmark", "performance")


@flow(name="m2det", persist_result=False)
def m2det(
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    only: list[str] | None = None,
    apply: bool = True,
) -> State[None]:
    """From data to a trained model, its metrics and its pictures.

    The run works in a copy of the project and ends as a DVC experiment. A wrong argument fails the run with one
    sentence, before a task starts or a file is written.

    Args:
        recipe: a name that `m2det recipes` lists; its values replace those of params.yaml, except data.root,
            data.outside and data.mirror. Without a recipe, params.yaml holds as it is when the run starts.
        overrides: values for keys of params.yaml, such as {"epochs": 160, "train.lr": 0.01}; they replace the
            recipe's.
        only: run these stages alone, in this order; the last one even if it is up to date, to repeat a measurement.
        apply: put the results into the working copy at the end, with params.yaml except its section run, if the
            working copy's settings, results and code are still those of the start.
    """
    leave_out_repetitions()
    try:
        check_stages(only or [])
        checked_settings(recipe, overrides or {})
        require_repository()
        # a name that git takes for an experiment
        name = re.sub(r"[^\w-]+", "-", f"{deployment.name or 'm2det'}-{flow_run.id[:8]}")
        with guarded(UUID(flow_run.id)), run_copy(name) as copy:
            write_settings(copy.folder / PARAMS, recipe, overrides or {})
            _show(copy, recipe, overrides or {})
            ended = _run_stages(copy, only or list(STAGES), forced=only is not None)
            return ended or Completed(message=_conclude(copy, apply))
    except InputError as error:
        get_run_logger().error(str(error))
        return Failed(message=str(error))


def _run_stages(copy: RunCopy, stages: list[str], forced: bool) -> State[None] | None:
    """Run stages one after the other; return the state of a run that ends with one of them."""
    log = get_run_logger()
    with ExitStack() as held:
        for stage in stages:
            named = reproduce.with_options(name=stage, task_run_name=stage)
            state = named(str(copy.folder), stage, forced and stage == stages[-1], return_state=True)
            if not state.is_completed():
                log.info("the copy stays until the next run of its name: %s", copy.folder.absolute())
                return State(type=state.type, name=state.name, message=state.message)
    return None


@task(cache_policy=NO_CACHE, persist_result=False)
def reproduce(folder: str, stage: str, forced: bool) -> State[None] | None:
    """Bring one stage's outputs in the run's copy up to date; forced, run it in any case."""
    return _dvc("--cd", folder, "repro", "--single-item", *["--force"] * forced, stage)


def check_stages(only: list[str]) -> None:
    """Raise InputError for a stage that does not exist or is named twice."""
    if unknown := [stage for stage in only if stage not in STAGES]:
        raise InputError(f"only: no stage is called {unknown[0][:80]!a}; there are {', '.join(STAGES)}")
    if len(set(only)) != len(only):
        raise InputError(f"only: {next(stage for stage in only if only.count(stage) > 1)} is named twice; once will do")


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
    log = task_log()
    lines: deque[str] = deque(maxlen=20)

    def write(line: str) -> None:
        if line and not is_advice(line):
            log.info("%s", line)
            lines.append(line)

    environment = os.environ | {
        PLAIN: "1",
        # the stages' commands say `python`: this one
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
    }
    try:
        relay_child([sys.executable, "-m", "dvc", *arguments], write, env=environment)
    except subprocess.CalledProcessError:
        return Failed(message=failure(lines))
    except (TerminationSignal, KeyboardInterrupt) as signal:
        return _stopped(signal)
    return None


def _stopped(signal: BaseException) -> State[None]:
    """Return the final state of what a signal has ended."""
    with suppress(HTTPError), get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(flow_run.id)).state
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            return Cancelled(message="cancelled; the next run goes on from the last checkpoint")
    by = "Ctrl-C" if isinstance(signal, KeyboardInterrupt) else "SIGTERM, as a worker's end sends it"
    return Crashed(message=f"ended by {by}; the next run goes on from the last checkpoint")


def failure(lines: Iterable[str]) -> str:
    """Return what failed and why, from DVC's last lines: the line `error: ...` of a stage, or the last five."""
    lines = list(lines)
    stage = re.search(r"failed to reproduce '(.+?)'", "\n".join(lines))
    sentences = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    why = sentences[-1] if sentences else "\n".join(lines[-5:])
    return f"stage {stage[1]} failed: {why}" if stage else f"DVC failed: {why}"
