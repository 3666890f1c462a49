"""torchrun, quietly: FOLDER ARGUMENTS OF TORCHRUN.

Its messages and the stderr of all its processes go to a log in the folder; one sentence is left there where a process
failed. Told to stop, or with processes that were, it exits with 128 + the signal's number.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from signal import SIGABRT, SIGTERM
from typing import TYPE_CHECKING

from m2det.distributed.grace import LOG, STOPS, answered

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

AT_ONCE = 2  # seconds; torchrun's clock has no fractions


def main(folder: Path, *arguments: str) -> None:
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, sys.stderr.fileno())
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # by default torchrun leaves a folder in /tmp for what we note ourselves, and takes signals that nohup ignores
    signals = ",".join(number.name for number in answered())
    try:
        torchrun([f"--log-dir={os.devnull}", f"--signals-to-handle={signals}", *arguments])
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as error:
        sys.exit(outcome(folder, error.failures))


def outcome(folder: Path, failures: dict[int, ProcessFailure]) -> int:
    """The exit code, by how processes ended; leaves the sentence, if nobody has or knows better.

    One that was killed is the reason why others failed. Not so one that aborts, as gloo does where another has gone,
    or that was ended with the others, at once by SIGTERM or later by SIGKILL.
    """
    from m2det.distributed.launch import ERROR, failed, note
    from m2det.distributed.lifetime import describe_exit

    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    stopped = [code for code in codes.values() if code - 128 in STOPS]
    if stopped and set(codes.values()) <= {*stopped, -SIGTERM, -SIGABRT}:
        return stopped[0]
    begin = min(failure.timestamp for failure in failures.values())
    at_once = [rank for rank, failure in failures.items() if failure.timestamp <= begin + AT_ONCE]
    killed = [rank for rank in at_once if codes[rank] < 0 and -codes[rank] not in (SIGABRT, SIGTERM)]
    if killed:
        (folder / ERROR).unlink(missing_ok=True)
    rank = min(killed or at_once)
    note(folder, failed(folder, rank, f"ended ({describe_exit(codes[rank])})"))
    return 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
