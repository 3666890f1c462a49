"""The flow `demo`: detect objects on a folder of pictures with a trained model, by `m2det detect`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Annotated
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State
from pydantic import Field

from flows.commit import describe_commit
from flows.ending import SIGNALS, stopped
from flows.guard import start_guard
from m2det.distributed.children import relay_child
from tasks.common import MODEL

DIGITS = "data/coco/images/val2014"  # pictures that every clone has after its first run
DRAWN = Path("drawn")
Name = Annotated[str, Field(min_length=1)]


@flow(name="demo", version=describe_commit(), persist_result=False)
def demo(folder: Name = DIGITS, model: Name = str(MODEL)) -> State[None]:
    """Detect objects on pictures, and write the pictures with boxes into the folder `drawn`; the log names them.

    Args:
        folder: of pictures, or one picture; relative to the project's folder. By default the validation images of the
            data set digits.
        model: a model.safetensors; by default the working copy's.
    """
    start_guard(UUID(flow_run.id))
    log = get_run_logger()
    last: deque[str] = deque(["no line was printed"], maxlen=1)

    def write(line: str) -> None:
        log.info("%s", line)
        last.append(line)

    # -- because a name may begin with a hyphen
    command = [sys.executable, "-m", "m2det", "detect", "--weights", model, "--out", str(DRAWN), "--", folder]
    try:
        relay_child(command, write, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    except subprocess.CalledProcessError:
        return Failed(message=last[0].removeprefix("error: "))
    except SIGNALS as signal:
        return stopped(signal, f"pictures drawn so far are in {DRAWN.absolute()}")
    return Completed(message=f"drawn into {DRAWN.absolute()}")
