"""A terminal of its own for a command, which can be closed."""

import os
import pty
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Terminal:
    """Runs a command as the leader of a session at a new terminal, in `folder`."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.execvpe(command[0], command, dict(environment))

    def close(self) -> None:
        os.close(self._master)

    def wait(self, within: float = 60.0) -> int:
        """The exit code, below 0 a signal's."""
        deadline = time.monotonic() + within
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < deadline, f"{self.pid} goes on"
            time.sleep(0.02)
        return os.waitstatus_to_exitcode(ended[1])


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]
