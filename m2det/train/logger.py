"""Progress of a training: a bar on a terminal, plain lines elsewhere, every line in log.txt; curves as CSV."""

from __future__ import annotations

import csv
import os
import sys
import time
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from m2det.errors import writing
from m2det.files.whole import write_whole
from m2det.model.flops import Cost


class TrainingLog:
    """Says how it goes; path None says nothing. Rates are of the steps since the last line, without evaluations."""

    def __init__(self, path: Path | None, start: int, steps: int, images: int, cost: Cost) -> None:
        """start, steps: done before, and in all; images: per step, of all processes together."""
        self._silent = path is None
        self._path = path or Path(os.devnull)
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        self._start, self._steps, self._images, self._cost = start, steps, images, cost
        self._bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, disable=self._silent or not sys.stderr.isatty()
        )
        self._last, self._total = start, 0.0  # the step of the last line; seconds of all before it
        self._busy = self._waiting = 0.0  # seconds since the last line
        self._steps_since = 0
        self._since = time.perf_counter()

    def line(self, text: str) -> None:
        """Print and keep one line. Raises InputError for a full disk."""
        with writing(self._path):
            self._file.write(text + "\n")
            self._file.flush()
        if self._silent:
            return
        if self._bar.disable:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def got_batch(self) -> None:
        """The loop has its batch: the time since the last step was spent waiting for data."""
        before = self._busy
        self.worked()
        self._waiting += self._busy - before

    def did_step(self) -> None:
        self.worked()
        self._steps_since += 1
        self._bar.update()

    def worked(self) -> None:
        """The time since the last call belongs to the training; waiting for the device does, too."""
        now = time.perf_counter()
        self._busy += now - self._since
        self._since = now

    def resume_clock(self) -> None:
        """After something that is no training: leave its time out."""
        self._since = time.perf_counter()

    @property
    def step_seconds(self) -> float:
        """A step's mean since the last line, waiting for data included."""
        return self._busy / max(self._steps_since, 1)

    def progress(
        self, step: int, epoch: float, epochs: int, losses: dict[str, float], rate: float, scale: float
    ) -> None:
        """A line for the steps since the last one; step counts from 1."""
        self.worked()
        self._total += self._busy
        per_second = (step - self._last) * self._images / self._busy
        minutes, seconds = divmod(round((self._steps - step) * self._total / (step - self._start)), 60)
        self.line(
            f"step {step}/{self._steps} epoch {epoch:.2f}/{epochs} "
            + " ".join(f"{name} {value:.3f}" for name, value in losses.items())
            + f" lr {rate:.2e} scale {scale:g} {per_second:.{0 if per_second >= 10 else 2}f} img/s "
            + f"waiting {self._waiting / self._busy:.0%} {self._cost.achieved(per_second)} left {minutes}:{seconds:02d}"
        )
        self._last, self._steps_since, self._busy, self._waiting = step, 0, 0.0, 0.0

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.close()
        with writing(self._path):  # a line that found no room is written again
            self._file.close()


CURVES = ("epoch", "step", "lr", "loss_loc", "loss_conf", "AP", "AP50")


def write_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """One row per epoch; AP columns are empty where no evaluation was made. No times: equal runs, equal bytes."""
    table = StringIO()
    writer = csv.DictWriter(table, CURVES, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, table.getvalue())
