"""Processes that end together: no child outlives the process that started it.

DVC has no handler for SIGTERM and leaves its stage running when it is killed; torchrun puts its workers
into sessions of their own, out of reach of a signal to the group. So each process asks the kernel for a
SIGTERM when its parent ends, and turns that into an ordinary exit, which ends its own children first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Thread
from types import FrameType
from typing import NoReturn

from m2det.distributed.grace import ENDING, answered, end_after_stop, waiting
from m2det.distributed.lifetime import die_with_parent


def stage_process() -> None:
    """What a stage's process does first: from now on it ends with DVC, by SIGTERM with 143 and by SIGHUP with 129.

    If that takes longer than its grace (see m2det.distributed.grace), it ends as it is.
    """
    for number in answered():
        if number != signal.SIGINT:
            signal.signal(number, _exit)
    end_after_stop(_say)
    if "DVC_STAGE" in os.environ or signal.SIGHUP in answered():  # else a shell's, which it is to outlive: nohup
        die_with_parent(os.getppid())


def _say(sentence: str) -> None:
    print(
        f"error: {sentence}", ENDING.last_line, sep="\n", end="\n" * bool(ENDING.last_line), file=sys.stderr, flush=True
    )


def _exit(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    for other in answered():  # a terminal that is closed sends its own, then DVC's end another: one exit is enough
        if other != signal.SIGINT:
            signal.signal(other, lambda *_: None)
    raise SystemExit(128 + number)


def run_child(cmd: Sequence[str], grace: float = 30.0, env: Mapping[str, str] | None = None) -> None:
    """Run `cmd` to its end. Whatever interrupts us ends it: SIGTERM, and SIGKILL `grace` seconds later.

    Signals of the terminal do not reach it: one that is to stop is told so once.
    Raises subprocess.CalledProcessError if it fails.
    """
    process = subprocess.Popen(cmd, env=env, start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid()))
    with waiting(grace):
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
    if code:
        raise subprocess.CalledProcessError(code, cmd)


def relay_child(
    cmd: Sequence[str],
    write: Callable[[str], None],
    grace: float = 20.0,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run `cmd` in a process group of its own, passing each line that the group prints to `write`.

    Whatever interrupts us ends the group: SIGTERM, and SIGKILL to what is left `grace` seconds later.
    Raises subprocess.CalledProcessError if `cmd` fails.
    """
    process = subprocess.Popen(
        cmd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            write(line.rstrip())
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)  # the group exists until wait() has collected its leader
        # the pipe ends when the last process that holds it has gone, `cmd` itself often goes sooner
        rest = Thread(target=process.stdout.read, daemon=True)
        rest.start()
        rest.join(grace)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code:
        raise subprocess.CalledProcessError(code, cmd)
