"""torchrun with a log file instead of messages: FOLDER ARGUMENTS OF TORCHRUN.

Its messages and the stderr of all its processes go to a log in the folder. When a process fails, one sentence is left
in the folder. When torchrun or its processes are stopped by a signal, it exits with 128 + the signal's number.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from pathlib import Path
from signal import SIGABRT, SIGTERM
from threading import Thread
from typing import TYPE_CHECKING

from m2det.distributed.shutdown import LOG_NAME, MARGIN_SECONDS, OTHER_NODE, STOP_SIGNALS, handled_signals

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

SIMULTANEOUS_SECONDS = 2  # torchrun's timestamps are whole seconds
POLL_SECONDS = 0.5
BY_ITSELF_SECONDS = 3  # for processes whose connection has ended, or that have agreed with the other node's to stop


def main(folder: Path, *arguments: str) -> None:
    log = os.open(folder / LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, sys.stderr.fileno())
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    if any(argument.startswith("--nnodes=") for argument in arguments):
        [grace] = [float(a.partition("=")[2]) for a in arguments if a.startswith("--shutdown-timeout=")]
        Thread(target=end_with_other_nodes, args=[folder, grace], daemon=True).start()
    # by default torchrun leaves a log folder in /tmp, and handles signals that nohup ignores
    signals = ",".join(number.name for number in handled_signals())
    try:
        torchrun([f"--log-dir={os.devnull}", f"--signals-to-handle={signals}", *arguments])
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as error:
        sys.exit(report_failure(folder, error.failures))


def end_with_other_nodes(folder: Path, grace: float) -> None:
    """Stop torchrun and its processes when OTHER_NODE says that another node has ended, unless they end by themselves.

    What they wait for may never come: a collective does not notice that a network is down.

    Args:
        folder: that this node's processes share.
        grace: seconds in which torchrun ends its processes.
    """
    while not (folder / OTHER_NODE).exists():
        time.sleep(POLL_SECONDS)
    time.sleep(BY_ITSELF_SECONDS)
    os.kill(os.getpid(), SIGTERM)
    # a torchrun whose own processes have ended waits for other nodes in C++, where it hears no signal for 5 minutes
    time.sleep(grace + MARGIN_SECONDS / 2)
    os._exit(128 + SIGTERM)


def report_failure(folder: Path, failures: dict[int, ProcessFailure]) -> int:
    """Leave a sentence on the process that failed first, unless it left a better one itself.

    A process that was killed is the cause of the other failures. A process that aborts is not (gloo aborts when its
    peer has ended), nor one that torchrun ended because of a failure, by SIGTERM or later by SIGKILL.

    Args:
        folder: takes the sentence.
        failures: by rank.

    Returns:
        The exit code.
    """
    from m2det.distributed.launch import ERROR_NAME, failure_message, leave_error
    from m2det.distributed.lifetime import describe_exit

    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    stopped = [code for code in codes.values() if code - 128 in STOP_SIGNALS]
    if stopped and set(codes.values()) <= {*stopped, -SIGTERM, -SIGABRT}:
        return stopped[0]
    first = min(failure.timestamp for failure in failures.values())
    earliest = [rank for rank, failure in failures.items() if failure.timestamp <= first + SIMULTANEOUS_SECONDS]
    killed = [rank for rank in earliest if codes[rank] < 0 and -codes[rank] not in (SIGABRT, SIGTERM)]
    if killed:
        (folder / ERROR_NAME).unlink(missing_ok=True)
    rank = min(killed or earliest)
    leave_error(folder, failure_message(folder, f"process {rank} ended ({describe_exit(codes[rank])})"))
    return 1


if __name__ == "__main__":
    code = 0
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    # no ordinary exit: signals in quick succession keep torchrun from stopping threads, which that would wait for
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
