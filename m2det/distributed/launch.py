"""Start the processes of this machine through torchrun, and run the work of one of them."""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch

from m2det.config import Params
from m2det.device import choose_device, environment_of
from m2det.distributed.cores import check_processes
from m2det.distributed.group import Group
from m2det.distributed.lifetime import describe_exit, die_with_parent, end_after_parent, usable_cores
from m2det.distributed.nodes import ONE_NODE, Place, Work, meet, node_name
from m2det.distributed.shutdown import LOG_NAME, MARGIN_SECONDS, OTHER_NODE, SHUTDOWN, STOP_SIGNALS, exit_after_grace
from m2det.distributed.threads import threads_of_each
from m2det.distributed.watch import LOST_CONNECTION, Watch, ends_with_others
from m2det.errors import InputError
from m2det.files.locks import exclusive_writer_lock
from m2det.files.whole import make_temporary_folder, write_whole
from m2det.text import PrintableFormatter, escape_unencodable_output, ignore_closed_output

ERROR_NAME = "error.txt"  # in the shared folder: the sentence of the first process that failed
RESERVE_NAME = "reserve"  # in the same folder: removed to make room for the sentence on a full disk
# in the errors of collectives whose other processes have ended, by gloo and NCCL
CONNECTION = re.compile(
    r"(?i)connection (closed|reset|refused|aborted)|broken pipe|pair closure|remote (error|process)"
)
RunChild = Callable[..., None]  # m2det.distributed.children.run_child, or a replacement with its parameters
LAUNCHERS = (b"m2det.distributed.quiet_torchrun", b"torch.distributed.run")  # the second: started by hand


def count_processes(params: Params) -> int:
    """Return run.processes, with auto as one per accelerator or CPU core, as far as a step's microbatches divide.

    Accelerators that stay idle are named in the log.

    Raises:
        InputError: more processes than the machine has devices or cores for.
    """
    device = choose_device(params.run.device)
    devices = usable_cores() if device.type == "cpu" else torch.accelerator.device_count()
    if params.run.processes == "auto":
        nodes = params.run.nodes
        processes = params.train.processes_at_most(devices, nodes)
        if device.type != "cpu" and processes < devices:
            logging.getLogger(__name__).warning(
                "run.processes: %d of %d %s devices, since these share a step's %d images in microbatches of %d",
                *(processes, devices, device.type, params.train.batch_size, params.train.microbatch),
            )
        return processes
    if device.type != "cpu" and params.run.processes > devices:
        raise InputError(
            f"run.processes is {params.run.processes}, but this machine has {devices} {device.type} devices"
        )
    check_processes(params, params.run.processes)
    return params.run.processes


def needs_torchrun(params: Params, processes: int) -> bool:
    """Return whether torchrun must start the processes: for several, or to set the device's environment variables."""
    together = processes * params.run.nodes
    return together > 1 or bool(environment_of(choose_device(params.run.device), params.run.deterministic))


def launch(work: Work, params: Params, processes: int, run_child: RunChild) -> None:
    """Run the work in several processes, which call run_worker, on this machine and the other nodes of run.nodes.

    Args:
        work: module and arguments; its folder is shared by this node's processes.
        params: for the section `run`.
        processes: how many, of each node.
        run_child: starts torchrun.

    Raises:
        InputError: with the sentence of the first process that failed, or one that names the log; with several nodes
            it names the node.
        SystemExit: a signal stopped the processes.
    """
    prepare_folder(work.folder)
    if params.run.nodes == 1:
        return run_torchrun(work.module, work.arguments, params, processes, work.folder, run_child, ONE_NODE)
    place, others = meet(work, params, processes)
    with ends_with_others(Watch(others, work.folder), node_name(0), longest_end(params)):
        run_torchrun(work.module, work.arguments, params, processes, work.folder, run_child, place)


def prepare_folder(folder: Path) -> None:
    """Make the folder that a node's processes share, without what an earlier run has left; before a Watch uses it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ERROR_NAME, OTHER_NODE):
        (folder / name).unlink(missing_ok=True)
    write_whole(folder / RESERVE_NAME, bytes(1 << 16))


def longest_end(params: Params) -> float:
    """Return the seconds that a node's processes may take from a signal to stop to their end by force."""
    return params.run.stop_grace + 3 * MARGIN_SECONDS


def run_torchrun(
    module: str,
    arguments: Sequence[str | Path],
    params: Params,
    processes: int,
    folder: Path,
    run_child: RunChild,
    place: Place,
) -> None:
    """Run `python -m module ARGUMENTS` in this node's processes.

    Args:
        module, arguments, folder: as those of Work; the folder has been prepared.
        params, processes, run_child: as for launch.
        place: of this node.

    Raises:
        InputError: with the sentence of this node's first process that failed, or one that names the log.
        SystemExit: a signal stopped the processes; caused by CalledProcessError if not this process had it.
    """
    grace = params.run.stop_grace
    options = [*place.torchrun_options(), f"--nproc-per-node={processes}"]
    options += [f"--shutdown-timeout={grace + MARGIN_SECONDS:g}"]
    launcher = [sys.executable, "-m", "m2det.distributed.quiet_torchrun", folder, *options]
    command = [*launcher, "-m", module, *arguments]
    device = choose_device(params.run.device)
    threads = threads_of_each(processes) if device.type == "cpu" else {}
    own = environment_of(device, params.run.deterministic) | place.environment(device)
    environment = {**own, **threads, **os.environ}
    try:
        run_child([str(part) for part in command], grace=grace + 2 * MARGIN_SECONDS, env=environment)
    except subprocess.CalledProcessError as error:
        with exclusive_writer_lock(folder):  # where torchrun was killed, rank 0 may still be leaving its sentence
            pass
        if (folder / ERROR_NAME).exists() and (sentence := (folder / ERROR_NAME).read_text(encoding="utf-8")):
            raise InputError(sentence) from error
        if error.returncode - 128 in STOP_SIGNALS:
            raise SystemExit(error.returncode) from error
        raise InputError(failure_message(folder, f"torchrun ended ({describe_exit(error.returncode)})")) from error
    except (SystemExit, KeyboardInterrupt):
        if (folder / ERROR_NAME).exists():
            print(f"error: {(folder / ERROR_NAME).read_text(encoding='utf-8')}", file=sys.stderr)
        raise


@contextmanager
def kept_if_failed(name: str) -> Iterator[Path]:
    """Yield a temporary folder for processes that share no run directory; keep it, with its log, if one fails."""
    folder = make_temporary_folder(f"m2det-{name}-")
    try:
        yield folder
    finally:
        if not (folder / ERROR_NAME).exists():
            shutil.rmtree(folder)


def failure_message(folder: Path, failure: str) -> str:
    """Return a sentence on a failure, such as "process 1 ended (exit code 1)"."""
    return f"{failure}; {folder / LOG_NAME} says more; the same command goes on from what is saved"


def leave_error(folder: Path, sentence: str) -> None:
    """Leave the sentence in the folder for `launch`, unless another process has left one before."""
    (folder / RESERVE_NAME).unlink(missing_ok=True)
    with suppress(FileExistsError), (folder / ERROR_NAME).open("x", encoding="utf-8") as file:
        file.write(sentence)


def run_worker(work: Callable[[Group], None], folder: Path, grace: float) -> None:
    """Run the work of a process that torchrun has started; end with torchrun, and exit with 1 after a failure.

    Rank 0's log, progress bars and warnings go to stdout, which is the terminal; tracebacks and the messages of C
    libraries stay on stderr, which is the log file of all processes.

    Args:
        work: called with this process's group.
        folder: takes the sentence of a failure.
        grace: seconds that the work has to end, after a signal to stop or the end of torchrun.
    """
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" in os.environ and not _is_torchrun(parent):
        sys.exit("torchrun, which started this process, has ended")
    die_with_parent(parent)  # torchrun gives this process a session of its own, and leaves it when killed
    end_after_parent(parent, grace)
    ignore_closed_output()
    SHUTDOWN.grace, SHUTDOWN.log = grace, folder / LOG_NAME
    exit_after_grace(partial(leave_error, folder))
    faulthandler.enable()
    group = Group.from_environment()
    level = logging.INFO if group.is_main_process else logging.ERROR
    escape_unencodable_output()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PrintableFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    stderr = sys.stderr
    if group.is_main_process:
        sys.stderr = sys.stdout
    try:
        work(group)
        group.destroy()
    except InputError as error:
        leave_error(folder, str(error))
        sys.exit(1)
    except Exception as error:
        [first, *_] = str(error).strip().splitlines() or [""]
        what = LOST_CONNECTION if CONNECTION.search(first) else "failed"
        leave_error(folder, failure_message(folder, f"process {group.rank} {what} ({type(error).__name__}: {first})"))
        print(f"process {group.rank}:\n{traceback.format_exc()}", file=stderr, end="")
        sys.exit(1)


def _is_torchrun(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    return sys.platform != "linux" or (command.exists() and any(name in command.read_bytes() for name in LAUNCHERS))
