"""The progress of a stage on its run's page: an artifact that follows the file which the stage's process writes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from m2det.progress import VARIABLE, describe_rate, minutes

API_ERRORS = (httpx.HTTPError, PrefectException)  # the server is away, or restarts, or has lost the artifact
SECONDS = 10.0  # from one look at the file to the next
LAST_UPDATE_SECONDS = 15.0  # at most, when a stage has ended: the run waits for it


@contextmanager
def progress_artifact(stage: str, folder: Path) -> Iterator[dict[str, str]]:
    """Show the progress of a stage while the block runs, as the artifact STAGE-progress of this task run.

    The artifact appears with the stage's first report, which not every stage makes, and ends at 100 unless the block
    raises. An API that does not answer is told once in the log, and ends nothing.

    Args:
        stage: its name.
        folder: where the stage's process is to write its progress, into STAGE-progress.json; an old one is removed.

    Yields:
        The environment variable that the stage's process needs.
    """
    # a file of its own: after an outage of the API the artifact may read it while the next stage runs
    file = folder.absolute() / f"{stage}-progress.json"
    file.unlink(missing_ok=True)
    artifact = _Artifact(stage, file)
    context = copy_context()  # of this task run, to which the artifact belongs
    thread = Thread(target=context.run, args=(artifact.follow,), name=f"progress of {stage}", daemon=True)
    thread.start()
    try:
        yield {VARIABLE: str(file)}
        artifact.succeeded = True
    finally:
        artifact.ended.set()
    thread.join(LAST_UPDATE_SECONDS)


def describe(content: Mapping[str, Any]) -> str:
    """Return the text at the progress, such as "training: 300 of 2232 steps, 149 img/s, eta 3:37, loss 3.350"."""
    done = f"{content['doing']}: {content['done']} of {content['total']} {content['unit']}"
    eta = f"eta {minutes(content['eta_s'])}"
    return ", ".join([done, describe_rate(content["img_s"]), eta, *_scores(content)])


def describe_end(content: Mapping[str, Any]) -> str:
    """Return the text after the end, of a content that may be some seconds older."""
    done = f"finished; {content['doing']}: {content['total']} {content['unit']}"
    return ", ".join([done, f"{describe_rate(content['img_s'])} at last", *_scores(content)])


def _scores(content: Mapping[str, Any]) -> list[str]:
    return [f"{name} {content[name]:.{digits}f}" for name, digits in (("loss", 3), ("AP", 4)) if name in content]


class _Artifact:
    """The artifact, which a thread of its own keeps up to date.

    Attributes:
        ended: set when the stage has ended; `follow` returns soon after.
        succeeded: whether the stage has ended well.
    """

    def __init__(self, stage: str, file: Path) -> None:
        self.ended, self.succeeded = Event(), False
        self._stage, self._file, self._log = stage, file, get_run_logger()
        self._id: UUID | None = None
        self._told = False

    def follow(self) -> None:
        """Show what the file holds, every few seconds, until the stage has ended; then its end."""
        while not self.ended.wait(SECONDS):
            if self._file.exists():
                content = json.loads(self._file.read_text())
                self._show(100 * content["done"] / content["total"], describe(content))
        if self.succeeded and self._file.exists():
            text = describe_end(json.loads(self._file.read_text()))
            while not self._show(100.0, text):
                time.sleep(SECONDS)

    def _show(self, percent: float, text: str) -> bool:
        """Return whether the API has taken it."""
        try:
            if self._id is None:
                made = create_progress_artifact(round(percent, 1), f"{self._stage}-progress", text)
                assert isinstance(made, UUID)  # a coroutine only in an event loop
                self._id = made
            else:
                update_progress_artifact(self._id, round(percent, 1), text)
        except API_ERRORS as error:
            if not self._told:
                self._log.warning("the progress of %s is not shown while the API fails: %s", self._stage, error)
            self._told = True
            return False
        return True
