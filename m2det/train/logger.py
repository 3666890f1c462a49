"""The log of a training: a bar on a terminal, plain lines elsewhere, every line in log.txt; and its curves as CSV."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from m2det.config import Params
from m2det.device import device_name
from m2det.distributed.threads import describe_load
from m2det.errors import explain_disk_errors
from m2det.files.whole import write_whole
from m2det.model.flops import Cost

if TYPE_CHECKING:
    from m2det.train.build import TrainingData, TrainingParts


ETA_LINES = 10  # progress lines whose rate the remaining time follows: a machine may become busy, or quiet again
SLOW = 0.6  # of the highest rate so far: the line then names the machine's load


class TrainingLog:
    """Write and print lines; rates are of the steps since the last progress line, without pauses."""

    def __init__(self, path: Path | None, start: int, steps: int, images: int, cost: Cost) -> None:
        """Open the file for appending and start the clock.

        Args:
            path: None for no file and no output, in all processes but the first.
            start: steps done before.
            steps: of the whole training.
            images: per step, of all processes together.
            cost: floating-point operations of one image.
        """
        self._silent = path is None
        self._path = path or Path(os.devnull)
        with explain_disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        self._steps, self._images, self._cost = steps, images, cost
        self._bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, disable=self._silent or not sys.stderr.isatty()
        )
        self._last_step = start  # of the last progress line
        self._recent: deque[tuple[int, float]] = deque(maxlen=ETA_LINES)  # steps and seconds of progress lines
        self._time = self._data_time = 0.0  # seconds since the last progress line
        self._new_steps = 0
        self._highest_rate = 0.0
        self._clock = time.perf_counter()

    def write(self, text: str) -> None:
        """Write and print lines. Raises InputError for a full disk."""
        with explain_disk_errors(self._path):
            self._file.write(text + "\n")
            self._file.flush()
        if self._silent:
            return
        if self._bar.disable:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def data_ready(self) -> None:
        """Count the time since the end of the last step as waiting for data."""
        self._data_time += self._lap()

    def step_done(self) -> None:
        """Count one step and its time."""
        self._lap()
        self._new_steps += 1
        self._bar.update()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside, which is no training, out of all rates."""
        self._lap()
        yield
        self._clock = time.perf_counter()

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        self._time += seconds
        return seconds

    @property
    def step_seconds(self) -> float:
        """Mean seconds per step since the last progress line, waiting for data included."""
        return self._time / max(self._new_steps, 1)

    def progress(
        self, step: int, epoch: float, epochs: int, losses: dict[str, float], lr: float, loss_scale: float
    ) -> None:
        """Write a line on the steps since the last one.

        Args:
            step: steps done.
            epoch: epochs done.
            epochs: of the whole training.
            losses: by name, means since the epoch's start.
            lr: of the last step.
            loss_scale: of the next step.
        """
        self._lap()
        self._recent.append((step - self._last_step, self._time))
        per_second = (step - self._last_step) * self._images / self._time
        recent_steps, recent_time = map(sum, zip(*self._recent, strict=True))
        minutes, seconds = divmod(round((self._steps - step) * recent_time / recent_steps), 60)
        self._highest_rate = max(self._highest_rate, per_second)
        slow = f"; slower than before: {describe_load()}" if per_second < SLOW * self._highest_rate else ""
        self.write(
            f"step {step}/{self._steps} epoch {epoch:.2f}/{epochs} "
            + " ".join(f"loss_{name} {value:.3f}" for name, value in losses.items())
            + f" (epoch mean) lr {lr:.2e} loss_scale {loss_scale:g} "
            + f"{per_second:.{0 if per_second >= 10 else 2}f} img/s data_wait {self._data_time / self._time:.0%} "
            + f"{self._cost.achieved(per_second)} eta {minutes}:{seconds:02d}{slow}"
        )
        self._last_step, self._new_steps, self._time, self._data_time = step, 0, 0.0, 0.0

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.close()
        with explain_disk_errors(self._path):  # closing writes again what a full disk did not take
            self._file.close()


def describe_run(params: Params, parts: TrainingParts, data: TrainingData, step: int) -> str:
    """Return the log's first lines: how the training is run, and what the columns of its progress lines mean."""
    order, run = data.order, params.run
    kernels = next((name for name in ("fused", "foreach") if parts.optimizer.defaults[name]), "for-loop")
    return (
        f"training {params.model.name} from step {step} of {order.steps}, {order.batch_size} images per step\n"
        f"device {parts.device} ({device_name(parts.device)}), processes (world size) {parts.group.size}, accumulation "
        f"{order.accumulation}, microbatch {order.microbatch}, workers {run.workers}, compile {run.compile}, "
        f"graph {run.graph}\n"
        f"precision {parts.precision}; optimizer {parts.settings.optimizer} {kernels}; torch {torch.__version__}\n"
        "loss_loc, loss_conf: means since the epoch's start, over all processes; img/s (all processes), data_wait: "
        "since the last line; mem: peak of one process; eta: minutes:seconds\n"
        f"machine: {describe_load()}"
    )


CURVE_COLUMNS = ("epoch", "step", "lr", "loss_loc", "loss_conf", "AP", "AP50")


def write_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one row per epoch; AP is empty where none was measured. No column has a time: equal runs, equal bytes."""
    table = StringIO()
    writer = csv.DictWriter(table, CURVE_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, table.getvalue())
