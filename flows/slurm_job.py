"""A job of Slurm's, by Slurm's own commands: submit it, follow its log and its state, cancel it.

The job is one to Slurm however many nodes it has. Its log must lie on a file system that this machine sees, too.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

from flows.stage import PLAIN
from m2det.errors import InputError

POLL_SECONDS = 5.0  # a question to Slurm's controller, which answers for all users of the cluster
ENDED = {  # squeue(1), JOB STATE CODES; a job that Slurm queues again has another state
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED", "REVOKED"),
    *("NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY"),
}


@dataclass
class SlurmJob:
    """A job that was submitted.

    Attributes:
        number: Slurm's id of the job.
        log: what all tasks of the job print.
        state: as `squeue` has named it last, such as PENDING or COMPLETED.
    """

    number: int
    log: Path
    state: str = "PENDING"
    _read: int = 0
    _told: str = field(default="", repr=False)

    @classmethod
    def submit(cls, script: Path, options: Sequence[str], arguments: Sequence[str], logs: Path) -> SlurmJob:
        """Submit a batch script. A signal meanwhile waits for the answer of `sbatch`, and cancels the job.

        Args:
            script: the file.
            options: of `sbatch`, such as --nodes=4; they replace those in the script.
            arguments: of the script.
            logs: folder for the job's log, which is made where it does not exist.

        Raises:
            InputError: this machine has no Slurm, or `sbatch` refuses the job.
        """
        if which("sbatch") is None:
            raise InputError("sbatch is not on this machine's PATH: run the worker where jobs of Slurm are submitted")
        logs.mkdir(parents=True, exist_ok=True)
        output = f"--output={logs.absolute()}/slurm-%j.log"
        sbatch = _start("sbatch", "--parsable", output, *options, str(script), *arguments)
        try:
            answer, complaint = sbatch.communicate()
        except BaseException:
            answer, _ = sbatch.communicate()  # Slurm may have the job already
            if sbatch.returncode == 0:
                _call("scancel", answer.partition(";")[0].strip())
            raise
        if sbatch.returncode:
            raise InputError(f"sbatch refuses the job: {_last_line(complaint)}")
        number = int(answer.partition(";")[0])  # JOB or JOB;CLUSTER
        return cls(number, logs.absolute() / f"slurm-{number}.log")

    def watch(self, write: Callable[[str], None], seconds: float = float("inf")) -> bool:
        """Hand on the lines of the log and changes of the state until the job has ended.

        A controller that does not answer is asked again: the job does not depend on it.

        Args:
            write: called with each line.
            seconds: how long to watch at most.

        Returns:
            Whether the job has ended.

        Raises:
            InputError: Slurm does not know the job any more.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._ask(write)
            ended = self.state in ENDED
            self._relay(write, whole=ended)
            if ended or time.monotonic() >= deadline:
                return ended
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def cancel(self) -> None:
        """Have Slurm end the job: SIGTERM to all its tasks, and SIGKILL after the cluster's KillWait."""
        _call("scancel", str(self.number))

    def _ask(self, write: Callable[[str], None]) -> None:
        done = _call("squeue", "--noheader", "--states=all", "--format=%T %r", f"--jobs={self.number}")
        answered = done.returncode == 0
        told = done.stdout.strip() if answered else f"no answer: {_last_line(done.stderr)}"
        if not told or "Invalid job id" in told:
            raise InputError(f"Slurm does not know its job {self.number} any more; its log is {self.log}")
        if answered:
            self.state = told.split()[0]
        if told != self._told:
            self._told = told
            write(f"Slurm's job {self.number}: {told.removesuffix(' None')}")

    def _relay(self, write: Callable[[str], None], whole: bool) -> None:
        """Hand on the lines that are new in the log; the whole of it includes a last line without its end."""
        if not self.log.exists():
            return
        with self.log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        ready = new if whole else new[: new.rfind(b"\n") + 1]
        self._read += len(ready)
        for line in re.split(r"\r\n|\n|\r", ready.decode(errors="replace").removesuffix("\n")) if ready else ():
            write(line.rstrip())


def _start(*command: str) -> subprocess.Popen[str]:
    # sbatch hands the environment to the job, whose stages then look for no Prefect server: its nodes may reach none
    environment = os.environ | {"LC_ALL": "C.UTF-8", PLAIN: "1"}
    # a session of its own: Ctrl-C is for this process, which cancels the job
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    with _start(*command) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
