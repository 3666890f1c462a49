"""The state of a training, which is the content of a checkpoint: how it is saved and resumed; and hooks that see it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2det.config import RunParams
from m2det.data.sampler import TrainingBatchSampler
from m2det.errors import InputError
from m2det.files.inputs import FOLDER, Inputs
from m2det.model import M2Det
from m2det.train.best_weights import load_best
from m2det.train.build import TrainingParts
from m2det.train.checkpoint import discard_after, last_step, load_state, save_evaluation, save_state
from m2det.train.diagnose import check_finite_weights
from m2det.train.loss_monitor import LossMonitor
from m2det.train.optim import load_optimizer
from m2det.train.writer import Writer

log = logging.getLogger(__name__)


@dataclass
class TrainResult:
    """A finished training.

    Attributes:
        model: with the weights that are kept.
        rows: one per epoch, for the curves.
        steps: done in all.
        kept_epoch: the epoch of the weights.
    """

    model: M2Det
    rows: list[dict[str, Any]]
    steps: int
    kept_epoch: int

    @property
    def kept_row(self) -> dict[str, Any]:
        """The row of the epoch of the weights."""
        return next(row for row in self.rows if row["epoch"] == self.kept_epoch)


class TrainingState:
    """The progress of a training, and with it everything that a checkpoint holds.

    Attributes:
        step: steps done.
        lr: the learning rate of the last step.
        writer: writes the checkpoints.
        rows: one per finished epoch, for the curves.
        best: AP and epoch of the best weights so far, and the file that keeps them ("" for none).
        pending_evaluation: whether an epoch's steps are done, but not its evaluation.
    """

    def __init__(
        self,
        parts: TrainingParts,
        order: TrainingBatchSampler,
        monitor: LossMonitor,
        run_dir: Path,
        run: RunParams,
        writer: Writer,
    ) -> None:
        """Begin at step 0. Raises InputError where the inputs have changed since the run directory recorded them."""
        self.parts, self.order, self.monitor, self.run_dir, self.writer = parts, order, monitor, run_dir, writer
        self.step, self.lr = 0, parts.lr
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"AP": -1.0, "epoch": 0, "file": ""}
        self.pending_evaluation = False
        # what changes bits of a run, but not what it is
        self.runtime_info = {
            "processes": parts.group.size,
            "compile": run.compile,
            # each thread of a CPU adds up a part of a sum
            "device": f"cpu, threads {torch.get_num_threads()}" if parts.device.type == "cpu" else parts.device.type,
            "precision": str(parts.precision.dtype)[6:],
            "torch": str(torch.__version__),
        }
        self._inputs = Inputs.load(run_dir / FOLDER)
        self._inputs.refuse_changes()  # this process may have read the code before or after a change of it

    @property
    def epochs_done(self) -> float:
        """Epochs done, the last one in part."""
        return self.step / self.order.steps_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch of the last step, from 1."""
        return -(-self.step // self.order.steps_per_epoch)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step == self.order.steps

    @property
    def out_of_patience(self) -> bool:
        """Whether train.patience ends the training here: by the rows and the best AP alone, which a checkpoint holds.

        An AP of 0, or none (-1), is not yet one that later ones could fall behind.
        """
        patience, best = self.parts.settings.patience, self.best
        later = sum("AP" in row and row["epoch"] > best["epoch"] for row in self.rows)
        return best["AP"] > 0 and 0 < patience <= later

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step was the last one of its epoch, or of the training."""
        return self.step % self.order.steps_per_epoch == 0 or self.finished

    def progress_dict(self) -> dict[str, Any]:
        """Return the step, and what the end of an epoch changes; every process calls this: all losses are gathered."""
        return {
            "step": self.step,
            "rows": self.rows,
            "best": self.best,
            "pending_evaluation": self.pending_evaluation,
            "losses": self.monitor.state_dict(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain types; every process calls this, as progress_dict."""
        return self.progress_dict() | {
            "lr": self.lr,
            "model": self.parts.model.state_dict(),
            "optimizer": self.parts.optimizer.state_dict(),
            "scaler": self.parts.precision.state_dict(),
            "ema": self.parts.ema.state_dict(),
            "runtime_info": self.runtime_info,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what state_dict returned; warn where this machine computes other bits than before."""
        self.parts.model.load_state_dict(state["model"])
        load_optimizer(self.parts.optimizer, state["optimizer"])
        self.parts.precision.load_state_dict(state["scaler"])
        self.parts.ema.load_state_dict(state["ema"])
        self.monitor.load_state_dict(state["losses"])
        self.step, self.lr, self.rows, self.best = state["step"], state["lr"], state["rows"], state["best"]
        self.pending_evaluation = state["pending_evaluation"]
        before = state["runtime_info"]
        if changed := [f"{key} {before[key]}" for key, now in self.runtime_info.items() if before[key] != now]:
            log.warning(
                "warning: so far this run had %s: the same images follow in the same order, but the result has other "
                "bits than without the change",
                ", ".join(changed),
            )

    def end_epoch(self, row: dict[str, Any], best: dict[str, Any]) -> None:
        """Add the epoch's row, keep what is the best so far, and begin the sums of another epoch."""
        self.rows.append(row)
        self.best, self.pending_evaluation = best, False
        self.monitor.reset()

    def save(self) -> None:
        """Have a checkpoint written.

        Raises:
            InputError: a loss or weights that are not finite; a full disk, in this write or an earlier one.
        """
        self.monitor.mean()  # raises
        check_finite_weights(self.parts.model, self.step)
        if self.parts.group.is_main_process:
            self._inputs.warn_of_changes(self.run_dir / FOLDER)
        self._in_main(partial(self.writer.write, partial(save_state, self.run_dir), self.state_dict()))

    def save_evaluation(self, weights: Mapping[str, Tensor]) -> None:
        """Have written what an evaluation has added to the last checkpoint, with the best weights, if these are new.

        Raises:
            InputError: a full disk, in this write or an earlier one.
        """
        evaluation = {"progress": self.progress_dict(), "weights": weights}
        self._in_main(partial(self.writer.write, partial(save_evaluation, self.run_dir), evaluation))

    def finish_writing(self) -> None:
        """Wait, in all processes, until everything is on the disk. Raises InputError for a full disk."""
        self._in_main(self.writer.finish)

    def _in_main(self, write: Callable[[], None]) -> None:
        """Call `write` in the main process; where it fails, raise its InputError in all, which would else wait."""
        problem = ""
        if self.parts.group.is_main_process:
            try:
                write()
            except InputError as error:
                problem = f"{error}; it continues from step {last_step(self.run_dir)}"
        if problem := self.parts.group.all_gather(problem)[0]:
            raise InputError(problem)

    def resume(self) -> None:
        """Continue from the last checkpoint, if there is one: rank 0 reads it, since other nodes have none."""
        group = self.parts.group
        state = load_state(self.run_dir) if group.is_main_process else None
        if group.is_main_process:
            discard_after(self.run_dir, *((state["step"], not state["pending_evaluation"]) if state else (0, False)))
        state = group.broadcast(state, self.parts.device)
        if state is not None:
            self.load_state_dict(state)
            log.info("resuming at step %d of %d", self.step, self.order.steps)

    def result(self) -> TrainResult:
        """Return the best weights or the last ones, by train.keep; call this when all steps are done.

        The best are rank 0's alone, which has their file; other processes return the last ones.
        """
        model = self.parts.model
        if self.best["file"] and self.parts.group.is_main_process:
            load_best(self.run_dir, self.best["file"], model)
            return TrainResult(model, self.rows, self.step, self.best["epoch"])
        if self.parts.settings.keep == "best":
            log.warning(
                "warning: train.keep is best, but no epoch has an AP: the validation images have no boxes that count; "
                "the last weights are kept"
            )
        with self.parts.ema.applied():
            last = copy.deepcopy(model)
        return TrainResult(last, self.rows, self.step, self.rows[-1]["epoch"])


class Callbacks:
    """Hooks that do nothing; a subclass overrides those that it needs. Every process calls its own."""

    def on_step_begin(self, state: TrainingState) -> None:
        """Run when the batches of step state.step + 1 have arrived."""

    def on_step_end(self, state: TrainingState) -> None:
        """Run after the update of step state.step, before anything is logged or saved."""

    def on_evaluated(self, state: TrainingState, metrics: dict[str, float]) -> None:
        """Run after an epoch's evaluation, before its metrics decide which weights are the best."""
