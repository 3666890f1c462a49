"""The logs of a run: a stage's lines stand on its task's page, the outline on the run's page, an error once."""

from __future__ import annotations

import logging

from prefect.context import TaskRunContext
from prefect.exceptions import CancelledRun, CrashedRun, FailedRun
from prefect.logging import get_logger

ADVICE = (  # of DVC, for the working copy
    "To track the changes with git, run:",
    "\tgit add ",
    "To enable auto staging, run:",
    "\tdvc config core.autostage true",
    "Use `dvc push` to send",
)


def task_log() -> logging.LoggerAdapter[logging.Logger]:
    """Return a log whose lines stand on the page of the task that is running, and not on that of its run."""
    context = TaskRunContext.get()
    assert context is not None
    run = context.task_run
    # a word that is no id: without any, Prefect's handler would find the flow run's
    extra = {"task_run_id": str(run.id), "task_run_name": run.name, "flow_run_id": "none"}
    return logging.LoggerAdapter(get_logger("prefect.task_runs"), extra)


def is_advice(line: str) -> bool:
    """Return whether a line of DVC advises on what a run does by itself."""
    return line.startswith(ADVICE)


def leave_out_repetitions() -> None:
    """Leave out what Prefect logs beside the final state of a run or task that failed: its traceback into Prefect."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        get_logger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, FailedRun | CrashedRun | CancelledRun) and not record.getMessage().startswith(
        "Task run failed with state: "
    )
