"""Child processes that end with the process that started them.

DVC has no handler for SIGTERM and leaves its stage running when it is killed; torchrun puts its workers into sessions
of their own, out of reach of a signal to the group. So each process asks the kernel for a SIGTERM when its parent ends,
and turns that into an ordinary exit, which ends its own children first.
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

from m2det.distributed.lifetime import die_with_parent
from m2det.distributed.shutdown import SHUTDOWN, exit_after_grace, handled_signals, longer_grace


def stage_process() -> None:
    """Prepare the process of a stage: it ends with DVC, and exits with 143 by SIGTERM and with 129 by SIGHUP.

    When the grace period (m2det.distributed.shutdown) has passed, it ends by force.
    """
    for number in handled_signals():
        if number != signal.SIGINT:
            signal.signal(number, _exit)
    exit_after_grace(_print_error)
    parent = os.getppid()
    if "DVC_STAGE" in os.environ and _is_foreign(parent):
        raise SystemExit(128 + signal.SIGTERM)  # DVC, which started this process, ended before this line
    if "DVC_STAGE" in os.environ or signal.SIGHUP in handled_signals():  # else under nohup, to outlive its shell
        die_with_parent(parent)


def _is_foreign(parent: int) -> bool:
    """Return whether a process has not started this one, but taken it over: DVC's stages stay in its process group."""
    try:
        return os.getpgid(parent) != os.getpgrp()
    except ProcessLookupError:
        return True


def _print_error(sentence: str) -> None:
    last_line = SHUTDOWN.last_line
    print(f"error: {sentence}", last_line, sep="\n", end="\n" * bool(last_line), file=sys.stderr, flush=True)


def _exit(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    for other in handled_signals():  # a closed terminal sends SIGHUP, then DVC's end SIGTERM: one exit is enough
        if other != signal.SIGINT:
            signal.signal(other, lambda *_: None)
    raise SystemExit(128 + number)


def run_child(cmd: Sequence[str], grace: float = 30.0, env: Mapping[str, str] | None = None) -> None:
    """Run a command to its end; what interrupts this process ends the command first.

    Args:
        cmd: the command. Signals of the terminal do not reach it, so that it gets one signal to stop and not two.
        grace: seconds from its SIGTERM to its SIGKILL.
        env: its environment variables, by default this process's.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    process = subprocess.Popen(cmd, env=env, start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid()))
    with longer_grace(grace):
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
    cmd: Sequence[str], write: Callable[[str], None], grace: float = 20.0, env: Mapping[str, str] | None = None
) -> None:
    """Run a command in a process group of its own; what interrupts this process ends the group first.

    Args:
        cmd: the command.
        write: called with each line that the group prints.
        grace: seconds from SIGTERM to SIGKILL for what is left of the group.
        env: its environment variables, by default this process's.

    Raises:
        subprocess.CalledProcessError: the command failed.
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
        # the pipe ends with the last process that holds it, and `cmd` itself often ends sooner
        rest = Thread(target=process.stdout.read, daemon=True)
        rest.start()
        rest.join(grace)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code:
        raise subprocess.CalledProcessError(code, cmd)
