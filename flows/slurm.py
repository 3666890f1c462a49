"""The flow `slurm`: one Prefect task submits a job to Slurm and watches it to its end.

Slurm decides which nodes take part and starts all of them at once; Prefect has the run's state, its log and its
cancelling. A worker on each node could not do it: a training waits for all its processes, and Prefect starts each run
by itself.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Annotated
from uuid import UUID

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State
from pydantic import Field

from flows.commit import describe_commit
from flows.ending import SIGNALS, report, stopped
from flows.guard import start_guard
from flows.log import leave_out_repetitions, task_log
from flows.reproduce import failure
from flows.slurm_job import SlurmJob
from m2det.errors import InputError

SCRIPT = Path("deploy/slurm.sbatch")
LOGS = Path(".dvc/tmp/slurm")
END_SECONDS = 20.0  # to watch a job that was cancelled: Prefect's worker kills a run 30 s after it told it to stop
Word = Annotated[str, Field(min_length=1)]


@flow(name="slurm", version=describe_commit(), persist_result=False)
def slurm(
    options: list[Word] = [],  # noqa: B006 - Prefect shows it as the default, and nothing changes it
    arguments: list[Word] = [],  # noqa: B006
) -> State[None]:
    """Submit deploy/slurm.sbatch, and end as its job ends. The result is an experiment of the working copy.

    Args:
        options: of `sbatch`, such as ["--nodes=4", "--gpus-per-node=8"]; they replace those in the script.
        arguments: of `dvc exp run` on the first node, such as ["-S", "epochs=120", "evaluate"]. Empty: train and
            evaluate with params.yaml as it is.
    """
    leave_out_repetitions()
    start_guard(UUID(flow_run.id))
    state = run_job(options, arguments, return_state=True)
    return report(State(type=state.type, name=state.name, message=state.message))


@task(name="job", task_run_name="job", cache_policy=NO_CACHE, persist_result=False)
def run_job(options: list[str], arguments: list[str]) -> State[None]:
    """Run a job to its end, and cancel it when this run is stopped.

    Returns:
        A completed state; a failed one with the job's last error; or the state of a run that a signal has ended.
    """
    log = task_log()
    lines: deque[str] = deque(maxlen=20)

    def write(line: str) -> None:
        if line:
            log.info("%s", line)
            lines.append(line)

    try:
        try:
            job = SlurmJob.submit(SCRIPT, options, arguments, LOGS)
        except SIGNALS as signal:
            return stopped(signal, "the job that was being submitted is cancelled")
        try:
            job.watch(write)
        except SIGNALS as signal:
            job.cancel()
            end = "has ended" if job.watch(write, END_SECONDS) else "was told to end"
            return stopped(signal, f"Slurm's job {job.number} {end}; the next job goes on from the last checkpoint")
    except InputError as error:
        return Failed(message=str(error))
    if job.state == "COMPLETED":
        return Completed(message=f"Slurm's job {job.number} has completed; its log is {job.log}")
    return Failed(message=f"Slurm's job {job.number}: {job.state}; {failure(lines)}; its log is {job.log}")
