"""How long the loader's workers take to start: `python -m tests.data.worker_start_speed`.

From nothing to a batch of each worker, forked or from the fork server, in a new process each time; their annotations
are of COCO's size (docs/benchmarks/checkpoint.md).
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

import m2det.train.rank  # noqa: F401  # a training's main module, which workers of the fork server import again
from m2det.data.dataloader import server_context, worker_batches
from tests.conftest import ROOT

IMAGES, OBJECTS = 118_287, 860_001


class Samples:
    """The annotations that a worker gets; its samples are empty."""

    def __init__(self) -> None:
        self.file_names = [f"COCO_train2014_{number:012d}.jpg" for number in range(IMAGES)]
        self.boxes, self.labels = np.zeros((OBJECTS, 4), np.float32), np.zeros(OBJECTS, np.int16)
        self.crowds, self.sizes = np.zeros(OBJECTS, np.bool_), np.zeros((IMAGES, 2), np.int32)
        self.offsets, self.image_ids, self.crc32 = (np.zeros(IMAGES, kind) for kind in (np.int32, np.int64, np.uint32))

    def write_sample(self, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        return self.boxes[:0], self.labels[:0]


def start(method: str, workers: int) -> float:
    context: Any = server_context() if method == "forkserver" else multiprocessing.get_context("fork")
    samples: Any = Samples()
    begin = time.perf_counter()
    batches = worker_batches(samples, [[(0, 0)]] * workers, (1, 8, 8, 3), workers, 2, context)
    for _ in range(workers):
        next(batches)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=8, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--method", help="start once, by fork or forkserver, and print the seconds")
    arguments = parser.parse_args()
    if arguments.method:
        print(start(arguments.method, arguments.workers))
        return
    seconds: dict[str, list[float]] = {"fork": [], "forkserver": []}
    for _ in range(arguments.rounds):
        for method, values in seconds.items():
            command = [sys.executable, "-m", "tests.data.worker_start_speed", "--workers", str(arguments.workers)]
            done = subprocess.run([*command, "--method", method], cwd=ROOT, capture_output=True, text=True, check=True)
            values.append(float(done.stdout))
    for method, values in seconds.items():
        print(f"{arguments.workers} workers by {method:<10} {statistics.median(values):6.2f} s")


if __name__ == "__main__":
    main()
