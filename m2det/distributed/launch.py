"""Several processes of this machine that work as one, by torchrun."""

from __future__ import annotations

import faulthandler
import logging
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from m2det.config import Params
from m2det.device import TRAITS, choose_device
from m2det.distributed.cores import check_processes
from m2det.distributed.grace import ENDING, LOG, LONGER, STOPS, end_after_stop
from m2det.distributed.group import Group
from m2det.distributed.lifetime import describe_exit, die_with_parent, end_after_parent
from m2det.errors import InputError
from m2det.files.locks import exclusive_writer_lock
from m2det.files.whole import make_temporary_folder, write_whole
from m2det.text import PrintableFormatter, any_text_prints, outlive_reader

ERROR = "error.txt"  # in the folder that the processes share: the sentence of the first that had one to say
RESERVE = "reserve"  # beside it: bytes to give back to a full disk, so that it takes the sentence
LAUNCHERS = (
    b"m2det.distributed.quiet_torchrun",
    b"torch.distributed.run",
)  # the latter for who starts processes by hand


class RunChild(Protocol):
    """Runs a command to its end, ends it when we are to end (by SIGKILL after `grace` seconds), and raises
    CalledProcessError if it fails."""

    def __call__(self, cmd: Sequence[str], grace: float = ..., env: Mapping[str, str] | None = ...) -> None: ...


def count_processes(params: Params) -> int:
    """Return run.processes; auto is one per accelerator, one on a CPU.

    Raises InputError for more than the machine has devices or cores for.
    """
    device = choose_device(params.run.device)
    devices = 1 if device.type == "cpu" else torch.accelerator.device_count()
    if params.run.processes == "auto":
        return devices
    if device.type != "cpu" and params.run.processes > devices:
        raise InputError(
            f"run.processes is {params.run.processes}, but this machine has {devices} {device.type} devices"
        )
    check_processes(params, params.run.processes)
    return params.run.processes


def needs_torchrun(params: Params, processes: int) -> bool:
    """Whether processes are to be started: for more than one, or where the device wants an environment before."""
    return processes > 1 or bool(TRAITS[choose_device(params.run.device).type].environment)


def launch(
    module: str,
    arguments: Sequence[str | Path],
    params: Params,
    processes: int,
    folder: Path,
    run_child: RunChild,
) -> None:
    """Run `python -m module ARGUMENTS` in several processes, which find their places by Group.from_environment().

    folder: theirs, for their log and the sentence of one that fails. Raises InputError with it, or one that says where
    to look; SystemExit where they were told to stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    write_whole(folder / RESERVE, bytes(1 << 16))
    grace = params.run.stop_grace
    launcher = [
        sys.executable,
        "-m",
        "m2det.distributed.quiet_torchrun",
        folder,
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    command = [*launcher, f"--shutdown-timeout={grace + LONGER:g}", "-m", module, *arguments]
    environment = {**TRAITS[choose_device(params.run.device).type].environment, **os.environ}
    try:
        run_child([str(part) for part in command], grace=grace + 2 * LONGER, env=environment)
    except subprocess.CalledProcessError as error:
        with exclusive_writer_lock(folder):  # rank 0, left alone where torchrun was killed, has said what it had to
            pass
        if (folder / ERROR).exists() and (sentence := (folder / ERROR).read_text(encoding="utf-8")):
            raise InputError(sentence) from error
        if error.returncode - 128 in STOPS:
            raise SystemExit(error.returncode) from error
        how = f"torchrun ended ({describe_exit(error.returncode)})"
        raise InputError(f"{how}; {folder / LOG} says more; the same command goes on from what is saved") from error
    except (SystemExit, KeyboardInterrupt):
        if (folder / ERROR).exists():
            print(f"error: {(folder / ERROR).read_text(encoding='utf-8')}", file=sys.stderr)
        raise


@contextmanager
def kept_if_failed(name: str) -> Iterator[Path]:
    """A temporary folder for processes that share no other; one that failed leaves it, with the log it speaks of."""
    folder = make_temporary_folder(f"m2det-{name}-")
    try:
        yield folder
    finally:
        if not (folder / ERROR).exists():
            shutil.rmtree(folder)


def failed(folder: Path, rank: int, how: str) -> str:
    """A sentence for a process that failed."""
    return f"process {rank} {how}; {folder / LOG} says more; the same command goes on from what is saved"


def note(folder: Path, sentence: str) -> None:
    """Leave the sentence for who started the processes; the first one is heard."""
    (folder / RESERVE).unlink(missing_ok=True)
    with suppress(FileExistsError), (folder / ERROR).open("x", encoding="utf-8") as file:
        file.write(sentence)


def run_worker(work: Callable[[Group], None], folder: Path, grace: float) -> None:
    """What a process that torchrun has started does: `work`, and end with torchrun, at most `grace` seconds later.

    One that fails leaves a sentence in the folder and exits with 1. What rank 0 says is for the terminal: its log, bars
    and warnings go to stdout; tracebacks, and what libraries in C say, stay on stderr, which is the log of all.
    """
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" in os.environ and not _is_torchrun(parent):
        sys.exit("torchrun, which started this process, has ended")
    die_with_parent(parent)  # torchrun puts us into a session of our own and leaves us when it is killed
    end_after_parent(parent, grace)
    outlive_reader()
    ENDING.grace, ENDING.log = grace, folder / LOG
    end_after_stop(partial(note, folder))
    faulthandler.enable()
    group = Group.from_environment()
    level = logging.INFO if group.is_main_process else logging.ERROR
    any_text_prints()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PrintableFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    log = sys.stderr
    if group.is_main_process:
        sys.stderr = sys.stdout
    try:
        work(group)
        group.destroy()
    except InputError as error:
        note(folder, str(error))
        sys.exit(1)
    except Exception as error:
        [first, *_] = str(error).strip().splitlines() or [""]
        note(folder, failed(folder, group.rank, f"failed ({type(error).__name__}: {first})"))
        print(f"process {group.rank}:\n{traceback.format_exc()}", file=log, end="")
        sys.exit(1)


def _is_torchrun(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    return sys.platform != "linux" or (command.exists() and any(name in command.read_bytes() for name in LAUNCHERS))
