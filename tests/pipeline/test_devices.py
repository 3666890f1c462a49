"""Runs take turns on accelerators, and a run that is killed holds none."""

import logging
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

import pytest

from flows import devices
from flows.devices import hold_devices, host_devices
from m2det.errors import InputError
from tests.conftest import ROOT

HOLD = """
import logging, sys, time
from pathlib import Path
from flows import devices
from flows.devices import hold_devices
devices.FOLDER = Path(sys.argv[3])
with hold_devices("npu", int(sys.argv[1]), sys.argv[2], logging.getLogger()):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of this host's locks."""
    monkeypatch.setattr(devices, "FOLDER", tmp_path / "devices")
    return tmp_path / "devices"


def start(count: int, name: str) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(count), name, str(devices.FOLDER)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_runs_with_another_tmpdir_have_the_same_locks(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", "from flows.devices import FOLDER; print(FOLDER)"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == f"{devices.FOLDER}\n"


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


@contextmanager
def held(*names: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))
        with hold_devices("cuda", len(names), "a run", logging.getLogger()):
            yield


def test_locks_are_of_the_host_and_all_users_may_take_them(folder, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(folder.parent / "another"))
    mask = os.umask(0o077)
    try:
        with held("0", "MIG-GPU-ab/1/0"):
            pass
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "cuda0": 0o666,
        "cudaMIG-GPU-ab-1-0": 0o666,
    }
    with held("0"):
        assert (folder / "cuda0").read_text() == f"run a run (process {os.getpid()})"
    (folder / "cuda0").write_bytes(b"\xff" * 1000)
    with held("0"):
        assert (folder / "cuda0").read_text() == f"run a run (process {os.getpid()})"


def test_what_others_have_put_in_place_of_a_lock_is_told_in_a_sentence(folder, tmp_path):
    (tmp_path / "mine").write_text("mine")
    folder.mkdir()
    (folder / "cuda0").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match=r"devices/cuda0: Too many levels of symbolic links; .*mode 1777"), held("0"):
        pass
    (folder / "cuda0").unlink()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="devices/cuda0: Not a directory"), held("0"):
        pass
    assert (tmp_path / "mine").read_text() == "mine" and not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_waits_for_the_device(monkeypatch):
    with TemporaryDirectory(dir="/tmp") as open_to_all:
        Path(open_to_all).chmod(0o755)
        Path(open_to_all, "devices").mkdir()
        Path(open_to_all, "devices").chmod(0o1777)
        monkeypatch.setattr(devices, "FOLDER", Path(open_to_all, "devices"))
        with held("0"):
            child = os.fork()
            if child == 0:
                try:
                    os.setuid(65534)
                    signal.alarm(2)
                    with held("0"):
                        pass
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM


def test_devices_are_those_that_the_environment_makes_visible(monkeypatch):
    assert host_devices("cpu", 8) == []
    assert host_devices("npu", 2) == ["npu0", "npu1"]
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "5,4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert host_devices("npu", 2) == ["npu4", "npu5"] and host_devices("npu", 1) == ["npu5"]
    assert host_devices("cuda", 1) == ["cuda3"]
