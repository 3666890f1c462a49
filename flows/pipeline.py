"""The flow behind the deployments: DVC decides what must be rebuilt, Prefect keeps states, logs and retries.

A run works in a copy of its own (flows.run_copy), with settings that are fixed when it starts. One task per DVC
stage, each a child process `python -m dvc repro --single-item STAGE`, whose output is the task's log. At the end the
copy becomes an experiment, which flows.apply puts into the working copy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed, State

from flows.apply import apply as apply_outcome
from flows.apply import command_to_apply
from flows.artifacts import RunEnd, StageEnd, show
from flows.commit import describe_commit
from flows.devices import hold_devices
from flows.ending import SIGNALS, report, stopped
from flows.guard import start_guard, tell_guard
from flows.log import leave_out_repetitions
from flows.parameters import STAGES, Overrides, Recipe, Stages, check_stages
from flows.preflight import Machine, preflight
from flows.reproduce import reproduce
from flows.run_copy import RunCopy, experiment_name, remove, require_repository, run_copy
from flows.run_name import early_name, rename_run, run_name
from flows.settings import checked_settings, write_settings
from m2det.errors import InputError
from tasks.common import PARAMS

ON_DEVICES = ("train", "evaluate", "benchmark", "performance")


@flow(name="m2det", flow_run_name=early_name, version=describe_commit(), persist_result=False)
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
    leave_out_repetitions()
    try:
        check_stages(stages)
        settings = checked_settings(recipe, overrides)
        require_repository()
        name = experiment_name(deployment.name or "m2det", flow_run.id, flow_run.run_count)
        start_guard(UUID(flow_run.id))
        with run_copy(name) as copy:
            write_settings(copy.folder / PARAMS, recipe, overrides)
            rename_run(run_name(recipe, settings, stages, copy.baseline))
            _show(copy, recipe, overrides)
            ended: list[StageEnd] = []
            early = _run_stages(copy, stages or STAGES, forced=bool(stages), ended=ended)
            state = early or Completed(message=_conclude(copy, recipe, overrides, ended, apply))
        return report(state)
    except InputError as error:
        get_run_logger().error(str(error))
        return tell_guard(Failed(message=str(error)))
    except SIGNALS as signal:
        return stopped(signal)


def _run_stages(copy: RunCopy, stages: Sequence[str], forced: bool, ended: list[StageEnd]) -> State[Any] | None:
    """Run the preflight and the stages; return the state of the task that ends the run early, if one does.

    Args:
        copy: to run in.
        stages: in this order.
        forced: run the last one even if it is up to date.
        ended: gets the stages that have ended well.
    """
    folder = str(copy.folder)
    checked = preflight(folder, stages, return_state=True)
    if not checked.is_completed():
        return _early_end(checked, copy)
    machine = checked.result()
    assert isinstance(machine, Machine)
    with ExitStack() as held:
        for stage in stages:
            if stage in ON_DEVICES and machine.device:
                # from here on to the last stage
                held.enter_context(hold_devices(machine.device, machine.processes, copy.name, get_run_logger()))
                machine = Machine(None, 0)
            begun = time.monotonic()
            named = reproduce.with_options(name=stage, task_run_name=stage)
            state = named(folder, stage, forced and stage == stages[-1], return_state=True)
            if not state.is_completed():
                return _early_end(state, copy)
            ended.append(StageEnd(stage, str(state.name), time.monotonic() - begun))
    return None


def _early_end(state: State[Any], copy: RunCopy) -> State[Any]:
    get_run_logger().info("the copy stays until the next run of its name: %s", copy.folder.absolute())
    return State(type=state.type, name=state.name, message=state.message)


def _show(copy: RunCopy, recipe: str | None, overrides: dict[str, Any]) -> None:
    """Tell on the run's page where it works and with which settings."""
    settings = (copy.folder / PARAMS).read_text()
    log = get_run_logger()
    log.info("works in %s", copy.folder.absolute())
    log.info("settings: recipe %s, overrides %s; all of them are the artifact settings", recipe, overrides)
    create_markdown_artifact(f"```yaml\n{settings}```", key="settings", description=f"params.yaml of {copy.name}")


def _conclude(
    copy: RunCopy, recipe: str | None, overrides: Mapping[str, Any], ended: Sequence[StageEnd], apply: bool
) -> str:
    """Make the copy an experiment, put its outcome into the working copy if asked to, and say what was done."""
    commit = copy.commit()
    copy.save(commit, copy.name)
    said = (
        f"experiment {copy.name}; to put it into the working copy, whose params.yaml (section run, too), dvc.lock and "
        f"results go into git's stash: {command_to_apply(copy, commit)}"
    )
    applied = False
    if apply:
        try:
            apply_outcome(copy)
            applied, said = True, f"experiment {copy.name}, put into the working copy"
        except InputError as error:
            said = f"not put into the working copy: {error}; {said}"
    get_run_logger().info(said)
    name = deployment.name or "m2det"
    end = RunEnd(copy.name, name, recipe, overrides, commit, ended, copy.folder, Path(), applied, said)
    show(end, return_state=True)  # a task of its own: if it fails, its state says so, and the run's results are kept
    remove(copy)
    return said
