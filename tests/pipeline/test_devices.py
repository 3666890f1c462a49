"""Runs take turns on accelerators, and a run that is killed holds none."""

import logging
import select
import subprocess
import sys
import time
from threading import Timer

import pytest

from flows.devices import hold_devices, host_devices
from tests.conftest import ROOT

HOLD = """
import logging, sys, time
from flows.devices import hold_devices
with hold_devices("npu", int(sys.argv[1]), sys.argv[2], logging.getLogger()):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The temporary folder of this host."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def start(count: int, name: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLD, str(count), name], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("folder")
def test_a_run_waits_for_its_devices_and_says_who_has_them(caplog):
    caplog.set_level(logging.INFO)
    holder = start(2, "first")
    try:
        assert holder.stdout.readline() == "held\n"
        with hold_devices("cpu", 8, "on a CPU", logging.getLogger()):
            assert not caplog.records, "a CPU is shared"
        Timer(1.5, holder.kill).start()
        begun = time.monotonic()
        with hold_devices("npu", 8, "second", logging.getLogger()):
            assert 1 < time.monotonic() - begun < 20
        assert caplog.messages == [f"waiting for npu0, which run first (process {holder.pid}) has"]
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.usefixtures("folder")
def test_no_two_runs_have_the_same_device_and_each_gets_its_turn():
    runs = [start(count, f"{count}") for count in (8, 1, 4)]
    try:
        for _ in range(len(runs)):
            readable, _, _ = select.select([run.stdout for run in runs], [], [], 20)
            (run,) = (run for run in runs if run.stdout in readable)
            assert run.stdout.readline() == "held\n"
            assert not select.select([other.stdout for other in runs if other is not run], [], [], 2)[0]
            run.kill()
            runs.remove(run)
    finally:
        for run in runs:
            run.kill()


def test_devices_are_those_that_the_environment_makes_visible(monkeypatch):
    assert host_devices("cpu", 8) == []
    assert host_devices("npu", 2) == ["npu0", "npu1"]
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "5,4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert host_devices("npu", 2) == ["npu4", "npu5"] and host_devices("npu", 1) == ["npu5"]
    assert host_devices("cuda", 1) == ["cuda3"]
