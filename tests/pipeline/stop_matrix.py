"""Stop runs in every way that they can be stopped: `python -m tests.pipeline.stop_matrix` (make stress).

Each cell starts a run of one stage of the real project through a real server and worker, disturbs it while it works,
and checks: no process is left, Prefect has the right state in the end, and the next run goes on from the step where
this one stopped, wherever a signal could be answered.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import re
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import cv2
import numpy as np

from tests.pipeline.conftest import SHORT, Clone, make_clone
from tests.pipeline.service import ENDED, Service

WORK = ("pack", "train 1", "train 2", "evaluate")  # the number: of processes
IMAGES = 3000  # hard links: pack and evaluation take long enough to be stopped
REPORT_SECONDS = 4  # for a worker or guard that reports late: the state must stay
GRACE = 80  # seconds: a guard waits 45 for a worker to carry out a cancellation, the stage has 10, DVC's group 20
MARK = "M2DET_STOP_MATRIX"
NOT_OF_RUNS = r"flows\.guard|prefect (worker|server)|uvicorn|resource_tracker"  # a guard looks on for some seconds
CTRL_C, CLOSED = "Ctrl-C at `make prefect`", "terminal of `make prefect` closed"


class Cause(NamedTuple):
    """A way to stop a run, and the state that the run has in the end."""

    act: Callable[[Bench, str], None]
    state: str


class Bench:
    """A server, a worker and a clone of the project whose stages take long."""

    def __init__(self, folder: Path) -> None:
        self.service = Service(folder / "prefect", limit=8, environment={MARK: str(folder)})
        self.clone = make_clone(folder / "clone")
        _prepare(self.clone)
        self.mark = str(folder)
        self.service.deploy(self.clone.folder, "digits")

    def start(self, work: str, service: Service | None = None) -> str:
        """Start a run of a stage alone, by another service perhaps; wait until it is at work, and return the run."""
        service = service or self.service
        stage, _, processes = work.partition(" ")
        parameters = {"stages": [stage], "overrides": {"run": {"processes": int(processes or 1)}}, "apply": False}
        run = service.run(self.clone.folder, "m2det/digits", recipe=None, **parameters)
        before, checkpoints = self.step(), self.checkpoints()
        at_work = (lambda: self.step() > before) if stage == "train" else (lambda: self.pids(f"flows.{stage}"))
        service.wait_until(at_work, 120)
        if stage == "train":
            assert self.starts()[-1] == max(checkpoints, default=0), "it does not go on from the step of the last stop"
        return run

    def step(self) -> int:
        """The last step in the log of the unfinished training, or 0."""
        logs = list((self.clone.folder / "models/unfinished").glob("*/log.txt"))
        steps = re.findall(r"^step (\d+)/", logs[0].read_text(), re.MULTILINE) if logs else []
        return int(steps[-1]) if steps else 0

    def starts(self) -> list[int]:
        """The steps from which the unfinished training has started or gone on."""
        logs = list((self.clone.folder / "models/unfinished").glob("*/log.txt"))
        return [int(s) for s in re.findall(r"from step (\d+) of", logs[0].read_text())] if logs else []

    def checkpoints(self) -> list[int]:
        """The steps of the unfinished training's checkpoints."""
        files = (self.clone.folder / "models/unfinished").glob("*/step-*.pt")
        return [int(file.stem.removeprefix("step-")) for file in files]

    def pids(self, *words: str) -> list[int]:
        """The processes of runs, of which the command line has one of the words."""
        return [pid for pid, line in _processes(self.mark) if not words or any(word in line for word in words)]

    def check_checkpoint(self, step: int) -> str:
        """Assert that a training stopped after this step has a checkpoint of its last one; return cells on it."""
        checkpoint = max(self.checkpoints(), default=0)
        assert checkpoint >= step, f"stopped at step {step}, its last checkpoint has step {checkpoint}"
        return f"{self.starts()[-1]} to {checkpoint} | {step}"

    def close(self) -> None:
        self.service.stop(self.service.worker)
        self.service.stop(self.service.server)


def _prepare(clone: Clone) -> None:
    folder = clone.folder / "mine"
    folder.mkdir()
    rng = np.random.default_rng(49)
    cv2.imwrite(str(folder / "0.jpg"), rng.integers(0, 255, (480, 640, 3), np.uint8))
    for i in range(1, IMAGES):
        os.link(folder / "0.jpg", folder / f"{i}.jpg")
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(IMAGES)]
    box = {"category_id": 1, "bbox": [100, 100, 300, 200], "area": 60000, "iscrowd": 0}
    boxes = [box | {"id": i, "image_id": i} for i in range(IMAGES)]
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (folder / "all.json").write_text(json.dumps(coco))
    (clone.folder / ".git/info/exclude").write_text("/mine/\n")
    data = "[{annotations: all.json, images: .}]"
    clone.edit(
        SHORT | {"  source: digits": "  source: coco", "  root: ": "  root: mine", "  microbatch: ": "  microbatch: 2"}
    )
    clone.edit(
        {"  train: ": f"  train: {data}", "  val: ": f"  val: {data}", "  evaluate_every: ": "  evaluate_every: 1000"}
    )
    clone.run("dvc", "repro", "ops", "train")  # evaluate needs a model
    clone.edit({"  max_steps: ": "  max_steps: 0", "epochs: ": "epochs: 100000"})
    clone.edit({"  log_every: ": "  log_every: 1", "  save_every: ": "  save_every: 1000000000"})


def _processes(mark: str, but: str = NOT_OF_RUNS) -> Iterator[tuple[int, str]]:
    """Yield id and command line of the processes with this mark, but for those with some words."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if marked and line and not re.search(but, line):
            yield int(folder.name), line


def _cancel(bench: Bench, run: str) -> None:
    bench.service.command(bench.clone.folder, "prefect", "flow-run", "cancel", run)


def _cancel_in_ui(bench: Bench, run: str) -> None:
    bench.service.get(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})


def _to(number: int, *words: str) -> Callable[[Bench, str], None]:
    def act(bench: Bench, run: str) -> None:  # noqa: ARG001
        os.kill(min(bench.pids(*words)), number)

    return act


def _to_worker(number: int) -> Callable[[Bench, str], None]:
    def act(bench: Bench, run: str) -> None:  # noqa: ARG001
        bench.service.worker.send_signal(number)
        bench.service.worker.wait(60)
        bench.service.start_worker()

    return act


def _server_away(number: int, seconds: float) -> Callable[[Bench, str], None]:
    """Stop the server and start it again; the run goes on meanwhile, and can be cancelled after."""

    def act(bench: Bench, run: str) -> None:
        bench.service.server.send_signal(number)
        bench.service.server.wait(60)
        time.sleep(seconds)
        assert bench.pids("flows."), "the run goes on without a server"
        bench.service.start_server()
        _cancel(bench, run)

    return act


CAUSES = {
    "CLI cancel": Cause(_cancel, "CANCELLED"),
    "UI cancel": Cause(_cancel_in_ui, "CANCELLED"),
    "worker SIGTERM": Cause(_to_worker(signal.SIGTERM), "CRASHED"),
    "worker SIGKILL": Cause(_to_worker(signal.SIGKILL), "CRASHED"),
    "flow process SIGTERM": Cause(_to(signal.SIGTERM, "prefect.engine", "prefect flow-run execute"), "CRASHED"),
    "flow process SIGKILL": Cause(_to(signal.SIGKILL, "prefect.engine", "prefect flow-run execute"), "CRASHED"),
    "dvc SIGTERM": Cause(_to(signal.SIGTERM, "-m dvc"), "FAILED"),
    "dvc SIGKILL": Cause(_to(signal.SIGKILL, "-m dvc"), "FAILED"),
    "server SIGTERM, back, cancel": Cause(_server_away(signal.SIGTERM, 5), "CANCELLED"),
    "server SIGKILL, back, cancel": Cause(_server_away(signal.SIGKILL, 5), "CANCELLED"),
    "server away 60 s, cancel": Cause(_server_away(signal.SIGTERM, 60), "CANCELLED"),
}


def cells_of(causes: Iterable[str]) -> list[tuple[str, str]]:
    """Each cause with each kind of work; only a training outlasts the time in which a server is away."""
    return [(c, work) for c in causes for work in WORK if work.startswith("train") or not c.startswith("server")]


def run_cell(bench: Bench, cause: str, work: str, delay: float) -> str:
    """Stop the work by the cause so many seconds after it has begun; return a line on it, or fail."""
    act, expected = CAUSES[cause]
    run = bench.start(work)
    time.sleep(delay)
    step, begun = bench.step(), time.monotonic()
    act(bench, run)
    bench.service.wait_until(lambda: not bench.pids(), GRACE, lambda: f"left: {list(_processes(bench.mark))}")
    gone = time.monotonic() - begun
    bench.service.wait_until(lambda: bench.service.state(run) in ENDED, 60)
    told = time.monotonic() - begun
    bench.service.wait_until(lambda: set(bench.service.tasks(run).values()) <= ENDED, 30)
    time.sleep(REPORT_SECONDS)
    state, tasks = bench.service.state(run), bench.service.tasks(run)
    assert state == expected, (state, tasks)
    *before, last = tasks.values()
    assert last == expected and set(before) <= {"COMPLETED"}, f"{cause}, {work}: {tasks}"
    training = bench.check_checkpoint(step) if work.startswith("train") else " | "
    return f"| {cause} | {work} | {gone:.0f} s | {state} after {told:.0f} s | {training} |"


class Terminal(Service):
    """`make prefect` at a terminal of its own, in the folder of a project."""

    def __init__(self, folder: Path, mark: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.printed = f"http://127.0.0.1:{port}/api", ""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DVC_")) and k != "PYTHONPATH"}
        self.environment = kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", MARK: mark}
        process, self.screen = pty.fork()
        if process == 0:
            os.chdir(folder)
            os.execve(sys.executable, [sys.executable, "-m", "flows.service", str(port)], self.environment)
        Thread(target=self._read, daemon=True).start()
        self.wait_until(lambda: "\nready: " in self.printed.replace("\r", ""), 120, lambda: self.printed)

    def _read(self) -> None:
        with suppress(OSError):  # the terminal is closed
            while text := os.read(self.screen, 4096):
                self.printed += text.decode(errors="replace")


def run_at_a_terminal(bench: Bench, cause: str, work: str, delay: float) -> str:
    """Stop the work by Ctrl-C in the terminal of `make prefect`, or by its end; return a line on it, or fail."""
    mark, folder = f"{bench.mark}/terminal", bench.clone.folder
    terminal = Terminal(folder, mark)
    run = bench.start(work, terminal)
    time.sleep(delay)
    step, begun = bench.step(), time.monotonic()
    if cause == CTRL_C:
        os.write(terminal.screen, b"\x03")
    else:
        os.close(terminal.screen)

    def left() -> list[tuple[int, str]]:
        return list(_processes(mark, but="resource_tracker"))

    terminal.wait_until(lambda: not left(), GRACE, lambda: f"left: {left()}")
    gone = time.monotonic() - begun
    assert not (folder / "prefect.toml").exists()
    with sqlite3.connect(folder / ".prefect/prefect.db") as database:
        state = dict(database.execute("SELECT id, state_type FROM flow_run"))[run]
        tasks = {*database.execute("SELECT state_type FROM task_run WHERE flow_run_id = ?", (run,))}
    assert state == "CANCELLED" and tasks <= {("COMPLETED",), ("CANCELLED",)}, (state, tasks)
    training = bench.check_checkpoint(step) if work.startswith("train") else " | "
    return f"| {cause} | {work} | {gone:.0f} s, server and worker included | {state} | {training} |"


def main(seed: int, cells: int | None) -> None:
    rng = random.Random(seed)
    chosen = cells_of([*CAUSES, CTRL_C, CLOSED])
    rng.shuffle(chosen)
    folder = Path(tempfile.mkdtemp(prefix="m2det-stops-"))
    bench = Bench(folder)
    print("| cause | stage, processes | no process after | state | from step to checkpoint | step in the log |")
    try:
        for cause, work in chosen[:cells]:
            run = run_cell if cause in CAUSES else run_at_a_terminal
            print(run(bench, cause, work, rng.uniform(0, 3)), flush=True)
        print(run_cell(bench, "CLI cancel", "train 1", 0), flush=True)  # goes on from the last stop
    finally:
        bench.close()
    shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, help="how many, drawn by the seed; all by default")
    arguments = parser.parse_args(sys.argv[1:])
    main(arguments.seed, arguments.cells)
