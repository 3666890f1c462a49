"""torchrun ends also when it is told to stop several times: by its stage, and by the kernel when that has ended."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

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
