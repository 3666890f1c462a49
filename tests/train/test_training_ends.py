"""How a training ends that is told to, or of which a process dies: real stages, at a terminal and without."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.terminal import Terminal
from tests.train.disturb import MODEL, ONE, UNFINISHED, find, finished, processes_in, stage, working_copy

pytestmark = pytest.mark.slow
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
ENVIRONMENT |= {"PREFECT_HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
SHORT = ONE | {"epochs": 4, "workers": 2}
TRAIN = [sys.executable, "-m", "flows.train"]


def at_step(folder: Path, within: float = 60.0) -> int:
    """The step of the last checkpoint, as soon as there is one."""
    deadline = time.monotonic() + within
    while not (found := sorted((folder / UNFINISHED).glob("*/step-*.pt"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(found[-1].stem.removeprefix("step-"))


def none_left(folder: Path, within: float) -> bool:
    deadline = time.monotonic() + within
    while list(processes_in(folder)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("changes", [pytest.param(ONE, marks=pytest.mark.long), {}], ids=["one process", "two"])
def test_a_closed_terminal_stops_a_training_with_a_checkpoint(material, tmp_path, changes):
    folder = working_copy(tmp_path.resolve() / "copy", material, **changes)
    terminal = Terminal(TRAIN, folder, ENVIRONMENT)
    begun = at_step(folder)
    terminal.close()
    assert terminal.wait(60) == 128 + signal.SIGHUP
    assert none_left(folder, 30)
    [log] = (folder / UNFINISHED).glob("*/log.txt")
    assert f"stopped at step {at_step(folder)}; the same command continues from there" in log.read_text()
    assert begun <= at_step(folder) < 24
    torch.load(max((folder / UNFINISHED).glob("*/step-*.pt")), weights_only=True)


def test_a_training_under_nohup_outlives_the_terminal(material, tmp_path):
    """torchrun would take the signal that nohup ignores, and its processes with it."""
    folder = working_copy(tmp_path.resolve() / "copy", material, epochs=2)
    terminal = Terminal(["sh", "-c", 'nohup "$@" & cat', "sh", *TRAIN], folder, ENVIRONMENT)
    at_step(folder)
    for pid, _ in processes_in(folder):
        os.kill(pid, signal.SIGHUP)
    terminal.close()
    terminal.wait(60)
    assert none_left(folder, 60)
    assert (folder / MODEL).exists() and "epoch 2: AP" in (folder / "nohup.out").read_text()


def test_stopped_workers_neither_outlive_their_training_nor_block_the_next(material, tmp_path):
    """However they are started: see tests/data/test_dataloader.py."""
    undisturbed = finished(working_copy(tmp_path.resolve() / "undisturbed", material, **SHORT))
    folder = working_copy(tmp_path.resolve() / "copy", material, **SHORT)
    trainer = subprocess.Popen(TRAIN, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    at_step(folder)
    below = children(trainer.pid)
    assert len(below) == 2
    for worker in below:
        os.kill(worker, signal.SIGSTOP)
    trainer.kill()
    trainer.wait()
    assert finished(folder) == undisturbed
    assert none_left(folder, 30)


def test_a_training_that_waits_for_a_stopped_worker_ends_after_the_grace(material, tmp_path):
    folder = working_copy(tmp_path.resolve() / "copy", material, **ONE | {"stop_grace": 2})
    trainer = stage(folder)
    at_step(folder)
    [worker] = children(trainer.pid)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(1)
    trainer.terminate()
    begin = time.monotonic()
    assert trainer.wait(60) == 143 and 1.9 < time.monotonic() - begin < 20
    assert none_left(folder, 30)
    last = (folder / "out.txt").read_text().splitlines()[-1]
    sentence = "error: the step did not end within run.stop_grace = 2 s; the same command continues from step "
    assert last.startswith(f"{sentence}{at_step(folder)}; ") and last.endswith("processes.log says where it was")
    [log] = (folder / UNFINISHED).glob("*/processes.log")
    assert "in _receive" in log.read_text()


@pytest.mark.parametrize(
    "what", ["rank", *(pytest.param(what, marks=pytest.mark.long) for what in ("worker", "torchrun"))]
)
def test_a_death_is_one_sentence_and_its_noise_is_in_the_log(material, tmp_path, what):
    folder = working_copy(tmp_path.resolve() / "copy", material, workers=1)
    process = stage(folder)
    at_step(folder)
    launcher = find(folder, "launcher", process)
    ranks = sorted(children(launcher))
    before = len((folder / "out.txt").read_text().splitlines())
    os.kill({"rank": ranks[1], "worker": children(ranks[1])[0], "torchrun": launcher}[what], signal.SIGKILL)
    assert process.wait(60) == 1
    assert none_left(folder, 30)
    said = (folder / "out.txt").read_text()
    last = said.splitlines()[-1]
    begin = {"rank": "process 1", "worker": "the data-loading process ", "torchrun": "torchrun"}[what]
    assert last.startswith(f"error: {begin}") and "(signal SIGKILL); " in last and "; the same command " in last
    assert len(said.splitlines()) - before < 15 and "Traceback" not in said and "gloo" not in said
    [log] = (folder / UNFINISHED).glob("*/processes.log")
    # torchrun's account of the rank, or the trace of the worker's rank; torchrun may end other ranks before they write
    noise = {"rank": "exitcode: -9) local_rank: 1", "worker": "Traceback", "torchrun": ""}[what]
    assert noise in log.read_text()
