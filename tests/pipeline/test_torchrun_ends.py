"""torchrun ends also when it is told to stop several times: by its stage, and by the kernel when that has ended."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.train.hosts import free_port

RANK = """
import os, pathlib, signal, time
def stop(*_):
    pathlib.Path("told" + os.environ["RANK"]).touch()
    time.sleep(2)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("ready" + os.environ["RANK"]).touch()
time.sleep(600)
"""


@pytest.mark.slow
def test_more_signals_while_the_ranks_save_leave_no_torchrun(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    options = ["--standalone", "--nproc-per-node=2", "--shutdown-timeout=13"]
    torchrun = subprocess.Popen(
        [sys.executable, "-m", "m2det.distributed.quiet_torchrun", str(tmp_path), *options, "rank.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        for name in ("ready", "told"):
            deadline = time.monotonic() + 60
            while not all((tmp_path / f"{name}{rank}").exists() for rank in range(2)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            torchrun.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        torchrun.send_signal(signal.SIGTERM)  # while torchrun cleans up after the second one
        assert torchrun.wait(30) == 128 + signal.SIGTERM
    finally:
        torchrun.kill()
        torchrun.wait()


ONE_ENDS = """
import os, pathlib, time
parent = os.getppid()
while os.environ["RANK"] == "0" and os.getppid() == parent:
    time.sleep(0.1)
pathlib.Path("ended").touch()
"""


@pytest.mark.slow
def test_a_node_whose_processes_have_ended_does_not_wait_for_a_node_that_is_lost(tmp_path):
    """torchrun waits there for 5 minutes and hears no signal."""
    (tmp_path / "rank.py").write_text(ONE_ENDS)
    port = free_port()
    options = ["--nnodes=2", "--rdzv-backend=static", "--master-addr=127.0.0.1", f"--master-port={port}"]
    options += ["--nproc-per-node=1", "--shutdown-timeout=2"]
    nodes = []
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        command = [sys.executable, "-m", "m2det.distributed.quiet_torchrun", str(tmp_path / f"{number}"), *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        nodes.append(subprocess.Popen([*command, f"--node-rank={number}", "rank.py"], cwd=tmp_path, env=environment))
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ended").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2)
        assert nodes[1].poll() is None
        (tmp_path / "1/other_node.txt").touch()
        assert nodes[1].wait(20) == 128 + signal.SIGTERM
    finally:
        for node in nodes:
            node.kill()
            node.wait()
