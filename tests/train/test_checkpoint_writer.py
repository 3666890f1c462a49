"""Checkpoints written in the background, here on a CPU: the bits of their own step, whatever ends the training."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from m2det.errors import InputError
from m2det.files.torch_file import load_checked
from m2det.train.checkpoint import checkpoints, load_state, save_state, step_of
from m2det.train.writer import BackgroundWriter, Writer, make_writer
from tests.conftest import ROOT
from tests.training import AfterStep, run, settings

SAVE = "m2det.train.state.save_state"


@pytest.fixture(scope="module")
def whole(material, tmp_path_factory):
    return run(material, tmp_path_factory.mktemp("whole"), settings(epochs=2))


def assert_equal(found, wanted, where=""):
    """Nested dicts and lists of tensors and plain values, to the bit."""
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    elif isinstance(wanted, dict | list):
        keys = list(wanted) if isinstance(wanted, dict) else range(len(wanted))
        assert len(found) == len(wanted), where
        for key in keys:
            assert_equal(found[key], wanted[key], f"{where}.{key}")
    else:
        assert found == wanted, where


def assert_same_outcome(found, wanted):
    assert_equal([found.rows, dict(found.model.state_dict())], [wanted.rows, dict(wanted.model.state_dict())])


def join_writers(_=None):
    for thread in threading.enumerate():
        if thread.name == "checkpoint writer":
            thread.join(60)


@pytest.mark.usefixtures("in_background")
@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def test_a_late_write_has_the_bits_of_its_own_step(material, tmp_path, monkeypatch, optimizer):
    """Though two more steps have changed weights, momentum, average and sums before its first byte."""
    how = settings(epochs=1, batch_size=2, save_every=3, ema_decay=0.9, optimizer=optimizer)
    released = threading.Event()

    def save_and_copy(run_dir, state):
        assert state["step"] != 3 or released.wait(60)
        save_state(run_dir, state)
        if state["step"] == 3:
            shutil.copy(checkpoints(run_dir)[-1], run_dir / "copy")

    monkeypatch.setattr(SAVE, save_and_copy)
    done = []

    def release(state):
        done.extend(checkpoints(state.run_dir))
        released.set()

    run(material, tmp_path / "late", how, AfterStep(release, 5))
    assert not done, "steps 4 and 5 were made before"
    monkeypatch.setattr("m2det.train.trainer.make_writer", lambda *_, **__: Writer())
    run(material, tmp_path / "at once", how)
    found, wanted = (load_checked(tmp_path / name / "state/copy") for name in ("late", "at once"))
    assert found["step"] == 3 and found["losses"]["steps"] == 3 and found["optimizer"]["state"]
    assert_equal(found, wanted)


def test_one_write_at_a_time_in_the_order_of_the_calls():
    active, most, order = [], [], []

    def slow(content):
        active.append(content)
        most.append(len(active))
        time.sleep(0.02)
        order.append(active.pop())

    with BackgroundWriter(pytest.fail) as writer:
        for number in range(5):
            writer.write(slow, [number])
        assert len(order) >= 4, "the last write has waited for those before"
    assert order == [[0], [1], [2], [3], [4]] and max(most) == 1


def test_a_failure_is_raised_by_the_next_call_and_is_told_at_once(caplog):
    def fail(sentence):
        raise InputError(sentence)

    told = threading.Event()
    with BackgroundWriter(told.set) as writer:
        writer.write(fail, "the disk is full")
        assert told.wait(60)
        with pytest.raises(InputError, match="the disk is full"):
            writer.write(pytest.fail, "what must not be written")
        writer.finish()
        writer.write(fail, "full again")
    assert "full again" in caplog.text, "nobody has asked"


def test_only_an_accelerator_has_a_thread():
    kinds = {name: type(make_writer(torch.device(name), print)) for name in ("cpu", "cuda")}
    assert kinds == {"cpu": Writer, "cuda": BackgroundWriter}


@pytest.mark.usefixtures("in_background")
@pytest.mark.parametrize("outlasts_patience", [False, True])
def test_a_stop_during_a_write_loses_no_step(material, tmp_path, monkeypatch, whole, outlasts_patience):
    """The write of step 4 ends within half the grace, or only after that of step 5, which does not wait for ever."""
    state, beside = tmp_path / "state", []

    def slow(run_dir, content):
        deadline = time.monotonic() + (20 if outlasts_patience else 0.2)
        while content["step"] == 4 and time.monotonic() < deadline and not beside:
            time.sleep(0.01)
        save_state(run_dir, content)
        if content["step"] == 5:
            beside.append(not (state / "step-000000004.pt").exists())

    monkeypatch.setattr(SAVE, slow)
    stop = AfterStep(lambda _: os.kill(os.getpid(), signal.SIGTERM), 5)
    with pytest.raises(SystemExit) as stopped:
        run(material, tmp_path, settings(epochs=2, save_every=4, stop_grace=1), stop)
    assert stopped.value.code == 143 and beside == [outlasts_patience]
    assert [step_of(path) for path in checkpoints(state)][-1] == 5 and (state / "step-000000004.pt").exists()
    monkeypatch.setattr(SAVE, save_state)
    assert_same_outcome(run(material, tmp_path, settings(epochs=2)), whole)


@pytest.mark.usefixtures("in_background")
def test_a_full_disk_ends_the_training_at_the_next_step(material, tmp_path, whole):
    before, steps = resource.getrlimit(resource.RLIMIT_FSIZE), []

    def fill(state):
        steps.append(state.step)
        if state.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, before[1]))
        elif state.step == 5:
            join_writers()

    try:
        with pytest.raises(InputError) as error:
            run(material, tmp_path, settings(epochs=2, save_every=4), AfterStep(fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.match(rf"^{tmp_path}/state/step-000000004\.pt: file too large; .*; it continues from step 3$")
    assert steps == [1, 2, 3, 4, 5]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000000003.pt"]
    assert_same_outcome(run(material, tmp_path, settings(epochs=2)), whole)


@pytest.mark.usefixtures("in_background")
def test_a_failed_training_ends_its_write_first(material, tmp_path, monkeypatch):
    """Else the next start would meet a thread that still writes, or lose the checkpoint."""

    def slow(run_dir, content):
        time.sleep(0.2)
        save_state(run_dir, content)

    def fail(_):
        raise KeyError("a mistake")

    monkeypatch.setattr(SAVE, slow)
    with pytest.raises(KeyError, match="a mistake"):
        run(material, tmp_path, settings(epochs=2, save_every=1), AfterStep(fail, 2))
    assert load_state(tmp_path / "state")["step"] == 1


KILLED = """
import sys, time
from pathlib import Path
from m2det.train import checkpoint, train, trainer
from m2det.train.writer import BackgroundWriter
from tests.training import settings

def half(path, content):
    if path.name == "step-000000004.pt":
        path.with_name(f"{path.name}.tmp").write_bytes(b"half")
        time.sleep(600)
    save_checked(path, content)

save_checked, checkpoint.save_checked = checkpoint.save_checked, half
trainer.make_writer = lambda _, on_error: BackgroundWriter(on_error)
cache, backbone, folder = map(Path, sys.argv[1:])
train(settings(epochs=2, save_every=4), cache, backbone, folder / "state", folder / "log.txt")
"""


@pytest.mark.slow
def test_a_kill_during_a_write_costs_only_the_steps_after_the_one_before(material, tmp_path, whole):
    half = tmp_path / "state/step-000000004.pt.tmp"
    process = subprocess.Popen([sys.executable, "-c", KILLED, *map(str, material), str(tmp_path)], cwd=ROOT)
    while not half.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert load_state(tmp_path / "state")["step"] == 3
    assert_same_outcome(run(material, tmp_path, settings(epochs=2)), whole)
    assert not half.exists()
