"""How a process ends that was told to: by itself, with what it has to save, or as it is when its grace is over.

Who waits for others ends later than they do, so that what each has to say is heard; `stop_grace` is a rank's, or the
stage's where there are no ranks:

    a rank                                  stop_grace
    torchrun kills ranks                    stop_grace + 1 * LONGER
    the stage kills torchrun                stop_grace + 2 * LONGER
    the stage itself                        stop_grace + 3 * LONGER
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

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # by `kill`, Ctrl-C, a terminal that is closed
LONGER = 3.0  # seconds
LOG = "processes.log"  # in the folder of unfinished work: traces, and what torchrun and its processes say on stderr


def unended(grace: float) -> str:
    return f"the work did not end within {grace:g} s; the same command goes on from what is saved"


@dataclass
class Ending:
    """What counts at the moment of the signal: `grace` seconds, and after them `words(grace)`; traces go to `log`.

    last_line: of a stage, behind these words.
    """

    grace: float = 10.0
    words: Callable[[float], str] = unended
    log: Path | None = None
    last_line: str = ""


ENDING = Ending()  # this process's


def answered() -> list[signal.Signals]:
    """Of STOPS those that this process answers: what was ignored when it began (nohup's SIGHUP, the SIGINT of a job
    in the background) stays ignored; but for SIGTERM, by which processes end with their parents."""
    return [number for number in STOPS if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def saying(words: Callable[[float], str], log: Path) -> Iterator[None]:
    """Inside, these are the last words, and traces go to `log`."""
    before = ENDING.words, ENDING.log
    ENDING.words, ENDING.log = words, log
    try:
        yield
    finally:
        ENDING.words, ENDING.log = before


@contextmanager
def waiting(grace: float) -> Iterator[None]:
    """Inside, this process waits for one that has `grace` seconds to end."""
    before, ENDING.grace = ENDING.grace, grace + LONGER
    try:
        yield
    finally:
        ENDING.grace = before


def end_after_stop(say: Callable[[str], None]) -> None:
    """End this process when the grace after a signal to stop is over, whatever it waits for; its last words are said
    by `say`, and where each thread was is written to the log.

    A handler in Python waits for the main thread, which may be inside a collective whose other side was killed.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # written to when a signal comes

    def look() -> None:
        import tempfile

        while (number := os.read(reader, 1)[0]) not in STOPS:
            pass
        grace = ENDING.grace
        log = ENDING.log or Path(tempfile.gettempdir()) / f"m2det-{os.getpid()}.log"
        try:
            traces, where = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), f"; {log} says where it was"
        except OSError:  # a full disk does not keep the process alive
            traces, where = 2, ""
        # by a thread that needs no interpreter, where this one does not get it or is ended before the process
        faulthandler.dump_traceback_later(grace + LONGER, exit=True, file=traces)
        time.sleep(grace)
        try:
            with suppress(OSError):
                faulthandler.dump_traceback(traces)
            say(f"{ENDING.words(grace)}{where}")
        finally:
            os._exit(128 + number)

    Thread(target=look, daemon=True).start()
