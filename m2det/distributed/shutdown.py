"""How a process ends after a signal to stop: by itself, with its work saved, or by force after a grace period.

A process that waits for another one ends later than that one, so that it can still report what the other one said;
`stop_grace` is the grace period of a rank, or of the stage where there are no ranks:

    a rank                                  stop_grace
    torchrun kills ranks                    stop_grace + 1 * MARGIN_SECONDS
    the stage kills torchrun                stop_grace + 2 * MARGIN_SECONDS
    the stage itself                        stop_grace + 3 * MARGIN_SECONDS
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # by `kill`, Ctrl-C, a terminal that is closed
MARGIN_SECONDS = 3.0
OTHER_NODE = "other_node.txt"  # in the folder of a node's processes: another node ended; torchrun ends then, too
LOG_NAME = "processes.log"  # in the run directory: traces, and the stderr of torchrun and its processes


def timeout_message(grace: float) -> str:
    """Return the sentence of a process whose work did not end within the grace period."""
    return f"the work did not end within {grace:g} s; the same command goes on from what is saved"


@dataclass
class Shutdown:
    """What this process does when a signal to stop comes.

    Attributes:
        grace: seconds that its work has to end.
        message: of grace -> the sentence that is printed when they have passed.
        log: takes the stack traces.
        last_line: of a stage, printed after the sentence.
    """

    grace: float = 10.0
    message: Callable[[float], str] = timeout_message
    log: Path | None = None
    last_line: str = ""


SHUTDOWN = Shutdown()  # of this process


def handled_signals() -> list[signal.Signals]:
    """Return the signals to stop by which this process stops.

    Those ignored at its start (SIGHUP under nohup, SIGINT of a background job) stay ignored, but for SIGTERM, which
    ends a process with its parent.
    """
    return [n for n in STOP_SIGNALS if n == signal.SIGTERM or signal.getsignal(n) != signal.SIG_IGN]


@contextmanager
def shutdown_message(message: Callable[[float], str], log: Path) -> Iterator[None]:
    """Inside, print this message when the grace period has passed, and write stack traces to `log`."""
    before = SHUTDOWN.message, SHUTDOWN.log
    SHUTDOWN.message, SHUTDOWN.log = message, log
    try:
        yield
    finally:
        SHUTDOWN.message, SHUTDOWN.log = before


@contextmanager
def longer_grace(child_grace: float) -> Iterator[None]:
    """Inside, this process waits for a child that has `child_grace` seconds to end, so it has a margin more."""
    before, SHUTDOWN.grace = SHUTDOWN.grace, child_grace + MARGIN_SECONDS
    try:
        yield
    finally:
        SHUTDOWN.grace = before


def exit_after_grace(report: Callable[[str], None]) -> None:
    """From now on, end this process by force when the grace period after a signal to stop has passed.

    A signal handler in Python would wait for the main thread, which may be inside a collective whose other processes
    were killed; so a thread waits for the signal. It writes the stack traces of all threads to the log.

    Args:
        report: takes the last sentence.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # Python writes each signal's number to it

    def wait_for_signal() -> None:
        import tempfile

        while (number := os.read(reader, 1)[0]) not in STOP_SIGNALS:
            pass
        grace = SHUTDOWN.grace
        log = SHUTDOWN.log or Path(tempfile.gettempdir()) / f"m2det-{os.getpid()}.log"
        try:
            file, where = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), f"; {log} says where it was"
        except OSError:  # a full disk must not keep the process alive
            file, where = 2, ""
        # a thread of C, for the case that this one never gets the interpreter or ends before the process
        faulthandler.dump_traceback_later(grace + MARGIN_SECONDS, exit=True, file=file)
        time.sleep(grace)
        try:
            with suppress(OSError):
                faulthandler.dump_traceback(file)
            report(f"{SHUTDOWN.message(grace)}{where}")
        finally:
            os._exit(128 + number)

    Thread(target=wait_for_signal, daemon=True).start()
