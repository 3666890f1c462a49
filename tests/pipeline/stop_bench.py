"""A server, a worker and a clone whose stages take long, for runs that are stopped (tests/pipeline/stop_matrix.py)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from tests.pipeline.conftest import Clone
from tests.pipeline.service import Service

IMAGES = 3000  # hard links: pack and evaluation take long enough to be stopped up to 3 s after their begin
MARK = "M2DET_STOP_MATRIX"
NOT_OF_RUNS = r"flows\.guard|prefect (worker|server)|uvicorn|resource_tracker"  # a guard looks on for some seconds


class Bench:
    """A server, a worker and a clone of the project whose stages take long."""

    def __init__(self, folder: Path, clone: Clone, works: Collection[str], images: int = IMAGES) -> None:
        """Prepare a clone with short settings for these kinds of work; what it has made already is not made anew."""
        self.service = Service(folder / "prefect", limit=8, environment={MARK: str(folder)})
        self.clone = clone
        _prepare(clone, works, images)
        self.mark = str(folder)
        self.service.deploy(self.clone.folder, "digits")
        self._untouched = self._working_copy()

    def start(self, work: str, service: Service | None = None) -> str:
        """Start a run of a stage alone, by another service perhaps; wait until it is at work, and return the run."""
        mark = service.environment[MARK] if service else self.mark  # a terminal's differs from the bench's
        service = service or self.service
        stage, _, processes = work.partition(" ")
        parameters = {"stages": [stage], "overrides": {"run": {"processes": int(processes or 1)}}, "apply": False}
        run = service.run(self.clone.folder, "m2det/digits", recipe=None, **parameters)
        before, checkpoints = self.step(), self.checkpoints()

        def at_work() -> bool:
            if stage == "train":
                return self.step() > before
            return any(f"flows.{stage}" in line for _, line in marked_processes(mark))

        service.wait_until(at_work, 300)  # on a busy machine
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
        return [pid for pid, line in marked_processes(self.mark) if not words or any(word in line for word in words)]

    def check_checkpoint(self, step: int) -> str:
        """Assert that a training stopped after this step has a checkpoint of its last one; return cells on it."""
        checkpoint = max(self.checkpoints(), default=0)
        assert checkpoint >= step, f"stopped at step {step}, its last checkpoint has step {checkpoint}"
        return f"{self.starts()[-1]} to {checkpoint} | {step}"

    def check_untouched(self) -> None:
        """Assert that the working copy is as it was before any run."""
        assert self._working_copy() == self._untouched

    def _working_copy(self) -> dict[str, str]:
        shown = subprocess.run(
            ["git", "status", "--short"], cwd=self.clone.folder, capture_output=True, text=True, check=True
        )
        files = {name: (self.clone.folder / name).read_text() for name in ("params.yaml", "dvc.lock")}
        return {"git status": shown.stdout, **files}

    def close(self) -> None:
        self.service.stop(self.service.worker)
        self.service.stop(self.service.server)

    def evidence(self) -> str:
        """What there is to see after a failure: the processes of runs, and the ends of logs."""
        logs = [*(self.clone.folder / "models/unfinished").glob("*/*.log"), *self.service.home.glob("*.log")]
        logs += (self.clone.folder / "models/unfinished").glob("*/log.txt")
        ends = [f"{log}:\n{''.join(log.read_text(errors='replace').splitlines(keepends=True)[-20:])}" for log in logs]
        return "\n".join([f"processes: {self._all_processes()}", *ends])

    def kill(self) -> None:
        """End it with all processes of its runs."""
        for pid, _ in self._all_processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.close()

    def _all_processes(self) -> list[tuple[int, str]]:
        marks = (self.mark, f"{self.mark}/terminal")
        return [found for mark in marks for found in marked_processes(mark, but="resource_tracker")]


def _prepare(clone: Clone, works: Collection[str], images: int) -> None:
    folder = clone.folder / "mine"
    folder.mkdir()
    rng = np.random.default_rng(49)
    cv2.imwrite(str(folder / "0.jpg"), rng.integers(0, 255, (480, 640, 3), np.uint8))
    for i in range(1, images):
        os.link(folder / "0.jpg", folder / f"{i}.jpg")
    entries = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(images)]
    box = {"category_id": 1, "bbox": [100, 100, 300, 200], "area": 60000, "iscrowd": 0}
    boxes = [box | {"id": i, "image_id": i} for i in range(images)]
    coco = {"images": entries, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (folder / "all.json").write_text(json.dumps(coco))
    (clone.folder / ".git/info/exclude").write_text("/mine/\n")
    data = "[{annotations: all.json, images: .}]"
    clone.edit({"  source: digits": "  source: coco", "  root: ": "  root: mine", "  microbatch: ": "  microbatch: 2"})
    clone.edit(
        {"  train: ": f"  train: {data}", "  val: ": f"  val: {data}", "  evaluate_every: ": "  evaluate_every: 1000"}
    )
    clone.run("dvc", "repro", "ops", "weights", "pack", *(["train"] if "evaluate" in works else []))
    clone.edit({"  max_steps: ": "  max_steps: 0", "epochs: ": "epochs: 100000"})
    clone.edit({"  log_every: ": "  log_every: 1", "  save_every: ": "  save_every: 1000000000"})


def marked_processes(mark: str, but: str = NOT_OF_RUNS) -> Iterator[tuple[int, str]]:
    """Yield id and command line of the processes with this mark, but for those with some words."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if marked and line and not re.search(but, line):
            yield int(folder.name), line
