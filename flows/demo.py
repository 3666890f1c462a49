"""The flow `demo`: detect objects on a folder of pictures with a trained model, by `m2det detect`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State
from pydantic import Field

from flows.artifacts import api_errors_told
from flows.commit import describe_commit
from flows.ending import SIGNALS, stopped
from flows.guard import start_guard, tell_guard
from flows.pictures import inline_jpeg, read_picture
from m2det.distributed.children import relay_child
from tasks.common import MODEL

DIGITS = "data/coco/images/val2014"  # pictures that every clone has after its first run
DRAWN = Path("drawn")
KEY = "demo-pictures"
MAX_SHOWN, COLUMNS, SIDE = 12, 3, 320  # of the pictures on the run's page; three are as wide as one may be
Name = Annotated[str, Field(min_length=1)]


@flow(name="demo", version=describe_commit(), persist_result=False)
def demo(folder: Name = DIGITS, model: Name = str(MODEL)) -> State[None]:
    """Detect objects on pictures, and write the pictures with boxes into the folder `drawn`; the log names them.

    The artifact demo-pictures shows the first of them.

    Args:
        folder: of pictures, or one picture; relative to the project's folder. By default the validation images of the
            data set digits.
        model: a model.safetensors; by default the working copy's.
    """
    start_guard(UUID(flow_run.id))
    log = get_run_logger()
    last: deque[str] = deque(["no line was printed"], maxlen=1)
    drawn: list[Path] = []

    def write(line: str) -> None:
        log.info("%s", line)
        last.append(line)
        _, arrow, target = line.rpartition(" -> ")
        if arrow and target.endswith(".jpg") and Path(target).is_file():
            drawn.append(Path(target))

    # -- because a name may begin with a hyphen
    command = [sys.executable, "-m", "m2det", "detect", "--weights", model, "--out", str(DRAWN), "--", folder]
    try:
        relay_child(command, write, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    except subprocess.CalledProcessError:
        show_drawn(drawn)
        return tell_guard(Failed(message=last[0].removeprefix("error: ")))
    except SIGNALS as signal:
        return stopped(signal, f"pictures drawn so far are in {DRAWN.absolute()}")
    show_drawn(drawn)
    return tell_guard(Completed(message=f"drawn into {DRAWN.absolute()}"))


def show_drawn(paths: Sequence[Path]) -> None:
    """Show the first drawn pictures on one sheet in the artifact `KEY`; none is made without pictures."""
    if not paths:
        return
    from m2det.viz.draw import contact_sheet, thumbnail

    shown = paths[:MAX_SHOWN]
    thumbnails = [(thumbnail(read_picture(path), [], SIDE), path.stem) for path in shown]
    sheet = contact_sheet(thumbnails, min(COLUMNS, len(shown)), [f"{len(shown)} of {len(paths)} pictures"])
    with api_errors_told(KEY):
        text = f"The files in their full size: `{DRAWN.absolute()}`\n\n{inline_jpeg(sheet, 'detections')}"
        create_markdown_artifact(text, KEY, f"detections on {len(paths)} pictures")
