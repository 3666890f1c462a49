"""Progress of a training: a bar on a terminal, plain lines elsewhere, every line in log.txt; curves as CSV."""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm


class TrainingLog:
    """Says how it goes; path None says nothing. Rates count from this process's first step and leave evaluation out."""

    def __init__(self, path: Path | None, start: int, steps: int, batch_size: int) -> None:
        self._silent = path is None
        path = path or Path(os.devnull)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._steps, self._start, self._batch_size = steps, start, batch_size
        self._bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, disable=self._silent or not sys.stderr.isatty()
        )
        self._busy = self._waiting = 0.0
        self._since = time.perf_counter()

    def line(self, text: str) -> None:
        """Print and keep one line."""
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
        now = time.perf_counter()
        self._waiting += now - self._since
        self._busy += now - self._since
        self._since = now

    def did_step(self) -> None:
        now = time.perf_counter()
        self._busy += now - self._since
        self._since = now
        self._bar.update()

    def resume_clock(self) -> None:
        """After something that is no training: leave its time out."""
        self._since = time.perf_counter()

    def progress(self, step: int, epoch: float, epochs: int, losses: dict[str, float], rate: float) -> None:
        """A line for the steps so far; step counts from 1."""
        done = step - self._start
        per_second = done * self._batch_size / self._busy
        minutes, seconds = divmod(round((self._steps - step) * self._busy / done), 60)
        text = (
            f"step {step}/{self._steps} epoch {epoch:.2f}/{epochs} "
            + " ".join(f"{name} {value:.3f}" for name, value in losses.items())
            + f" lr {rate:.2e} {per_second:.0f} img/s waiting {self._waiting / self._busy:.0%} "
            + f"left {minutes}:{seconds:02d}"
        )
        self.line(text)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.close()
        self._file.close()


CURVES = ("epoch", "step", "lr", "loss_loc", "loss_conf", "AP", "AP50")


def write_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """One row per epoch; AP columns are empty where no evaluation was made. No times: equal runs, equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CURVES, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
