"""A Slurm of a test's own on this machine: a controller and two nodes, which are two slurmd."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """Those of Slurm's programs that this machine lacks: Debian has them in slurmctld, slurmd and slurm-client."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Cluster:
    """Slurm, started; `environment` lets its commands find it."""

    def __init__(self, folder: Path) -> None:
        (folder / "state").mkdir(parents=True)
        self.folder = folder
        values = {"folder": folder, "host": socket.gethostname(), "user": getpass.getuser(), "ports": free_ports(3)}
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._processes = [self._start("slurmctld", "-D")]
        self._wait_for("squeue")
        self._processes += [self._start("slurmd", "-D", "-N", name) for name in ("one", "two")]
        self._wait_for("srun", "--nodes=2", "--immediate=2", "true")

    def _start(self, *command: str) -> subprocess.Popen:
        with (self.folder / "output.log").open("a") as log:
            return subprocess.Popen(command, env=os.environ | self.environment, stdout=log, stderr=log)

    def _wait_for(self, *command: str) -> None:
        deadline = time.monotonic() + 60
        while self.run(*command).returncode:
            logs = "".join(log.read_text()[-2000:] for log in self.folder.glob("*.log"))
            assert time.monotonic() < deadline, logs
            time.sleep(0.5)

    def run(self, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = os.environ | self.environment
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    def states(self) -> list[str]:
        """The states of all jobs, the oldest first."""
        return self.run("squeue", "--noheader", "--states=all", "--sort=i", "--format=%T").stdout.split()

    def stop(self) -> None:
        self.run("scancel", "--user", getpass.getuser())
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait(60)


def free_ports(number: int) -> list[int]:
    with ExitStack() as sockets:
        probes = [sockets.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
