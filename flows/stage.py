"""Run a DVC stage: as a Prefect flow of tasks if a Prefect API is configured, otherwise as plain calls.

Without a server, Prefect would start one for each stage (10 to 20 s, and a failure when several start at once). The
steps, their order and their outputs are the same both ways.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from flows.api import api_url
from m2det.distributed.children import stage_process
from m2det.distributed.shutdown import SHUTDOWN
from m2det.distributed.threads import spin_briefly
from m2det.errors import InputError, explain_missing_cann
from m2det.text import PrintableFormatter, escape_unencodable_output, ignore_closed_output
from tasks.common import params
from tasks.inputs import conclude, inputs_of
from tasks.last_results import how_to_restore

if TYPE_CHECKING:
    from prefect.states import State

Step = Callable[[], None]
PLAIN = "M2DET_STAGE_IS_A_TASK"  # set by flows.pipeline: its task has the stage's state and log already


def run_stage(name: str, *steps: Step, tracked: bool = True) -> None:
    """Run `python -m flows.NAME`: call the steps in order, then check that the stage's inputs have not changed.

    Wrong input (InputError) ends the process with one sentence on stderr and exit code 1, SIGTERM with 143, Ctrl-C with
    130, a closed terminal with 129. If DVC has the results of an earlier run, a last line says how to restore them.

    Args:
        name: of the stage.
        steps: functions without arguments; each is a Prefect task of its name.
        tracked: whether the stage is a flow at all where a Prefect API is configured.
    """
    spin_briefly()
    ignore_closed_output()
    stage_process()
    escape_unencodable_output()
    log = logging.getLogger("m2det")  # with a handler of its own: Prefect replaces the root logger's
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PrintableFormatter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False

    def read_parameters() -> None:
        params()
        inputs_of(name).refuse_changes()  # what was read is what was recorded

    def check_inputs() -> None:
        conclude(name)

    steps = tuple(explain_missing_cann()(step) for step in (read_parameters, *steps, check_inputs))
    SHUTDOWN.last_line = how_to_restore(name)
    atexit.register(_print_last_line)  # after errors and tracebacks
    try:
        inputs_of(name)  # before anything else reads them
        if tracked and PLAIN not in os.environ and api_url():
            _run_tracked(name, steps)
        else:
            if tracked and PLAIN not in os.environ:
                print(f"{name}: no Prefect API configured, running plainly")
            for step in steps:
                step()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: the same command continues from the last finished part", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    atexit.unregister(_print_last_line)


def _print_last_line() -> None:
    if SHUTDOWN.last_line:
        print(SHUTDOWN.last_line, file=sys.stderr)


def _run_tracked(name: str, steps: tuple[Step, ...]) -> None:
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "m2det")  # so that the run's log has our lines
    from httpx import HTTPError
    from prefect import flow, get_client, task
    from prefect.cache_policies import NO_CACHE
    from prefect.flow_engine import run_flow_sync
    from prefect.states import Completed, Failed

    options: dict[str, Any] = {"persist_result": False, "log_prints": True}
    errors: list[InputError] = []
    ended: list[Step] = []

    def as_task(step: Step) -> Any:
        @task(name=step.__name__, task_run_name=step.__name__, cache_policy=NO_CACHE, **options)
        def run() -> State[None] | None:
            try:
                step()
            except InputError as error:
                errors.append(error)
                return Failed(message=str(error))  # raised, it would be logged as a traceback
            ended.append(step)
            return None

        return run

    @flow(name=f"m2det-{name}", **options)
    def stage() -> State[None] | None:
        for step in steps:
            state = as_task(step)(return_state=True)
            if not state.is_completed():
                return Failed(message=state.message)
        with get_client(sync_client=True) as client:
            if client.api_healthcheck() is not None:
                logging.getLogger("prefect.flow_runs").disabled = True  # a traceback, for what is one sentence below
        return None

    with get_client(sync_client=True) as client:
        if client.api_healthcheck() is not None:
            raise InputError(
                f"the Prefect API at {client.api_url} does not answer: start it (`make prefect` in another terminal), "
                "or go without it (`export PREFECT_API_URL=`)"
            )
    try:
        state = cast("State[None]", run_flow_sync(stage, return_type="state"))
    except HTTPError as error:  # it was asked for minutes; days of work must not be lost with it
        if not errors and len(ended) < len(steps):
            raise
        print(f"{name}: has ended, and the Prefect server could not be told so ({error})")
        state = Completed()
    if errors:
        raise errors[0]
    if not state.is_completed():
        sys.exit(f"error: {state.message}")  # Prefect has printed the traceback
