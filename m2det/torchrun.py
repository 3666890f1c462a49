"""Several processes of this machine that work as one, by torchrun."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from m2det.config import Params
from m2det.device import TRAITS, choose_device
from m2det.errors import InputError
from m2det.files.whole import write_whole
from m2det.group import Group
from m2det.process import die_with_parent, end_after_parent, end_after_sigterm

ERROR = "error.txt"  # in the folder that the processes share: the sentence of the first that had one to say
RESERVE = "reserve"  # beside it: bytes to give back to a full disk, so that it takes the sentence


class RunChild(Protocol):
    """Runs a command to its end, ends it when we are to end (by SIGKILL after `grace` seconds), and raises
    CalledProcessError if it fails."""

    def __call__(self, cmd: Sequence[str], grace: float = ..., env: Mapping[str, str] | None = ...) -> None: ...


def count_processes(params: Params) -> int:
    """params.processes; auto is one per accelerator, one on a CPU. Raises InputError for more than there are."""
    device = choose_device(params.device)
    devices = 1 if device.type == "cpu" else torch.accelerator.device_count()
    if params.processes == "auto":
        return devices
    if device.type != "cpu" and params.processes > devices:
        raise InputError(f"processes is {params.processes}, but this machine has {devices} {device.type} devices")
    return params.processes


def needs_torchrun(params: Params, processes: int) -> bool:
    """Whether processes are to be started: for more than one, or where the device wants an environment before."""
    return processes > 1 or bool(TRAITS[choose_device(params.device).type].environment)


def run_together(
    module: str,
    arguments: Sequence[str | Path],
    params: Params,
    processes: int,
    folder: Path,
    run_child: RunChild,
) -> None:
    """Run `python -m module ARGUMENTS` in several processes, which find their places by Group.from_environment().

    folder: theirs, for the sentence of one that fails. Raises InputError with it, or one that says where to look.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    write_whole(folder / RESERVE, bytes(1 << 16))
    grace = params.train.stop_grace
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*torchrun, f"--shutdown-timeout={grace}", "-m", module, *map(str, arguments)]
    environment = {**TRAITS[choose_device(params.device).type].environment, **os.environ}
    try:
        run_child(command, grace=grace + 10.0, env=environment)
    except subprocess.CalledProcessError as error:
        if (folder / ERROR).exists() and (sentence := (folder / ERROR).read_text()):
            raise InputError(sentence) from error
        raise InputError(
            f"{module} ended with exit code {error.returncode}; the root cause that torchrun names above says why"
        ) from error


def as_one_of_several(work: Callable[[Group], None], folder: Path, grace: float) -> None:
    """What a process that torchrun has started does: `work`, and end with torchrun, at most `grace` seconds later.

    An InputError leaves its sentence in the folder and exits with 1; the log of rank 0 goes to stdout.
    """
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" in os.environ and not _is_torchrun(parent):
        sys.exit("torchrun, which started this process, has ended")
    die_with_parent(parent)  # torchrun puts us into a session of our own and leaves us when it is killed
    end_after_parent(parent, grace)
    end_after_sigterm(grace)
    group = Group.from_environment()
    level = logging.INFO if group.leads else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)

    @record  # the traceback of the first that fails is what torchrun shows
    def guarded() -> None:
        try:
            work(group)
            group.leave()
        except InputError as error:
            (folder / RESERVE).unlink(missing_ok=True)
            with suppress(FileExistsError), (folder / ERROR).open("x") as file:  # the first one is heard
                file.write(str(error))
            sys.exit(1)

    guarded()


def _is_torchrun(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    return sys.platform != "linux" or (command.exists() and b"torch.distributed.run" in command.read_bytes())
