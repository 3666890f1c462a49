"""The log of a training: a bar on a terminal, plain lines elsewhere, every line in log.txt; and its curves as CSV."""

from __future__ import annotations

import csv
import math
import os
import sys
from contextlib import AbstractContextManager
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from m2det.config import Params
from m2det.device import device_name, reason_of_device
from m2det.distributed.threads import describe_load
from m2det.errors import explain_disk_errors
from m2det.files.whole import write_whole
from m2det.model.flops import Cost
from m2det.progress import (
    NO_PROGRESS,
    ImageProgress,
    Pace,
    Progress,
    ProgressFile,
    describe_rate,
    minutes,
    percent,
    print_line,
)

if TYPE_CHECKING:
    from m2det.train.build import TrainingData, TrainingParts


SLOW = 0.6  # of the highest rate so far: the line then names the machine's load


class TrainingLog:
    """Write and print lines; rates are of the steps since the last progress line, without pauses."""

    def __init__(
        self, path: Path | None, start: int, steps: int, images: int, cost: Cost, curves_file: Path | None = None
    ) -> None:
        """Open the file for appending and start the clock.

        Args:
            path: None for no file and no output, in all processes but the first.
            start: steps done before.
            steps: of the whole training.
            images: per step, of all processes together.
            cost: floating-point operations of one image.
            curves_file: CSV that `epochs_ended` writes; None for none.
        """
        self._silent = path is None
        self._path, self._curves_file = path or Path(os.devnull), curves_file
        with explain_disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        self._step, self._steps, self._cost = start, steps, cost
        self._pace = Pace(start, steps, images)
        self._progress_file = ProgressFile("" if self._silent else "train", "steps", steps)
        self._known: dict[str, float] = {}  # the file's values beside the speed
        self._bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, disable=self._silent or not sys.stderr.isatty()
        )
        self._new_steps, self._data_time = 0, 0.0  # since the last progress line
        self._highest_rate = 0.0

    def write(self, text: str) -> None:
        """Write and print lines. Raises InputError for a full disk."""
        with explain_disk_errors(self._path):
            self._file.write(text + "\n")
            self._file.flush()
        if self._silent:
            return
        if self._bar.disable:
            print_line(text)
        else:
            self._bar.write(text)

    def data_ready(self) -> None:
        """Count the time since the end of the last step as waiting for data."""
        self._data_time += self._pace.lap()

    def step_done(self) -> None:
        """Count one step and its time."""
        self._pace.lap()
        self._step += 1
        self._new_steps += 1
        self._bar.update()
        if self._progress_file.is_due(self._step):
            self._progress_file.write("training", self._step, self._pace.speed(self._step), **self._known)

    def paused(self) -> AbstractContextManager[None]:
        """Leave the time inside, which is no training, out of all rates."""
        return self._pace.paused()

    @property
    def step_seconds(self) -> float:
        """Mean seconds per step since the last progress line, waiting for data included."""
        return self._pace.seconds / max(self._new_steps, 1)

    @property
    def is_line_due(self) -> bool:
        """Whether the last progress line is so old that the clock wants another; in silent processes never.

        The processes need not agree, so what follows from this must not wait for the others.
        """
        return not self._silent and self._pace.is_line_due

    def progress(self, epoch: float, epochs: int, losses: dict[str, float], lr: float, loss_scale: float) -> None:
        """Write a line on the steps since the last one.

        Args:
            epoch: epochs done.
            epochs: of the whole training.
            losses: by name, means since the epoch's start.
            lr: of the last step.
            loss_scale: of the next step.
        """
        self._write_progress(epoch, epochs, losses, f"(epoch mean) lr {lr:.2e} loss_scale {loss_scale:g}")

    def progress_by_clock(self, epoch: float, epochs: int, own_losses: dict[str, float], lr: float) -> None:
        """Write such a line between those, with what this process knows without waiting for others or the device.

        Args:
            epoch, epochs, lr: as for `progress`.
            own_losses: this process's; empty on an accelerator.
        """
        self._write_progress(epoch, epochs, own_losses, f"{'(epoch mean of process 0) ' * bool(own_losses)}lr {lr:.2e}")

    def _write_progress(self, epoch: float, epochs: int, losses: dict[str, float], columns: str) -> None:
        self._pace.lap()
        seconds = self._pace.seconds
        per_second, remaining = self._pace.end_line(self._step)
        self._highest_rate = max(self._highest_rate, per_second)
        slow = f"; slower than before: {describe_load()}" if per_second < SLOW * self._highest_rate else ""
        if losses and math.isfinite(loss := sum(losses.values())):
            self._known["loss"] = round(loss, 4)
        self.write(
            f"step {self._step}/{self._steps} {percent(self._step, self._steps)} epoch {epoch:.2f}/{epochs} "
            + "".join(f"loss_{name} {value:.3f} " for name, value in losses.items())
            + f"{columns} {describe_rate(per_second)} data_wait {self._data_time / seconds:.0%} "
            + f"{self._cost.achieved(per_second)} eta {minutes(remaining)}{slow}"
        )
        self._new_steps, self._data_time = 0, 0.0

    def evaluation(self, images: int) -> Progress:
        """Return the progress of an evaluation of so many images, whose lines this log takes."""
        return NO_PROGRESS if self._silent else ImageProgress("evaluating", images, write=self.write)

    def epochs_ended(self, rows: list[dict[str, Any]]) -> None:
        """Write the curves, and take the last AP for those who look on.

        Args:
            rows: one per finished epoch, with AP where it was evaluated.
        """
        if measured := [row["AP"] for row in rows if "AP" in row]:
            self._known["AP"] = measured[-1]
        if rows and self._curves_file and not self._silent:
            write_curves(self._curves_file, rows)

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
        f"device {parts.device} ({device_name(parts.device)}; {reason_of_device(run.device)}), "
        f"processes (world size) {parts.group.size}, accumulation {order.accumulation}, microbatch {order.microbatch}, "
        f"workers {run.workers}, compile {run.compile}, graph {run.graph}\n"
        f"precision {parts.precision}; optimizer {parts.settings.optimizer} {kernels}; torch {torch.__version__}\n"
        "loss_loc, loss_conf: means since the epoch's start, over all processes; img/s (all processes), data_wait: "
        "since the last line; mem: peak of one process; eta: minutes:seconds, evaluations not counted\n"
        f"machine: {describe_load()}"
    )


CURVE_COLUMNS = ("epoch", "step", "lr", "loss_loc", "loss_conf", "AP", "AP50")


def write_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one row per epoch, by rename; AP is empty where none was measured.

    No column has a time: equal runs, equal bytes.
    """
    table = StringIO()
    writer = csv.DictWriter(table, CURVE_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, table.getvalue())
