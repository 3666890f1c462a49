"""Everything that one training holds, and what of it survives an interruption."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2det.config import Params
from m2det.data.dataset import TrainingDataset
from m2det.data.packed.reader import PackedSplit
from m2det.data.sampler import TrainingBatchSampler
from m2det.device import choose_device, compile_model, convert_sync_bn, to_device
from m2det.distributed.group import Group
from m2det.errors import InputError
from m2det.files.inputs import FOLDER, Inputs
from m2det.loss import MultiBoxLoss, Targets
from m2det.model import M2Det, build_model, prior_boxes
from m2det.model.flops import Cost, forward_flops, peak_flops
from m2det.model.pretrained import load_initial
from m2det.train.build import make_precision
from m2det.train.checkpoint import (
    best_file,
    checkpoints,
    discard_after,
    load_best,
    load_state,
    save_best,
    save_state,
    step_of,
)
from m2det.train.diagnose import explain, refuse_infinite_weights
from m2det.train.ema import Average
from m2det.train.evaluator import validate
from m2det.train.loss_monitor import LossMonitor
from m2det.train.optim import check_training_batch, freeze, load_optimizer, make_optimizer, scaled_lr, train_mode
from m2det.train.schedule import learning_rate

log = logging.getLogger(__name__)

STEPS_TO_AGREE, SECONDS_TO_AGREE = 10, 5.0  # at most, from one agreement on stopping to the next: it waits


@dataclass
class TrainResult:
    """A finished training: the kept weights, one row per epoch for the curves, and where it ended."""

    model: M2Det
    rows: list[dict[str, Any]]
    steps: int
    kept_epoch: int


@dataclass
class Run:
    """Everything that one training holds. What must survive an interruption is `state`."""

    params: Params
    cache: Path
    backbone: Path
    unfinished: Path
    group: Group = field(default_factory=Group)
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        params, settings = self.params, self.params.train
        self.device = self.group.local_device(choose_device(params.run.device))
        self.group.init(self.device)
        self.precision = make_precision(params.precision, self.device)
        self.split, self.val = PackedSplit(self.cache, "train"), PackedSplit(self.cache, "val")
        torch.manual_seed(params.seed)
        self.model = build_model(params.model.name, len(self.split.classes), **params.model.all_overrides)
        check_training_batch(self.model.config, settings.microbatch, "train.microbatch")
        if settings.sync_bn:
            convert_sync_bn(self.model, self.device)
        load_initial(self.model, self.backbone, params.weights.min_match)
        freeze(self.model, settings.freeze_backbone)
        to_device(self.model, self.device)
        self.size = self.model.config.size
        self.priors = prior_boxes(self.model.config).to(self.device)
        self.loss = MultiBoxLoss(label_smoothing=settings.label_smoothing)
        self.rate = scaled_lr(settings)
        self.optimizer = make_optimizer(self.model, settings, self.rate)
        self.precision.prepare(self.model, self.optimizer)
        network = compile_model(self.model, self.device) if params.run.compile else self.model
        self.network = self.group.wrap(network, self.device)
        self.average = Average(self.model, settings.ema_decay)
        self.samples = TrainingDataset(self.split, self.size, params.seed, settings)
        settings.accumulation(self.group.size)  # raises where it is no whole number
        self.order = TrainingBatchSampler(
            len(self.split),
            settings.batch_size,
            params.seed,
            0,
            rank=self.group.rank,
            processes=self.group.size,
            microbatch=settings.microbatch,
        )
        self.order.steps = params.epochs * self.order.steps_per_epoch
        if settings.max_steps:
            self.order.steps = min(self.order.steps, settings.max_steps)
        self.inputs = Inputs.load(self.unfinished / FOLDER)
        self.inputs.refuse_changes()  # of code, this process may have read either
        self._best: dict[str, Any] = {"AP": -1.0, "epoch": 0, "file": ""}
        self._rate_of_open_epoch = 0.0  # above 0: the epoch's steps are done, its evaluation is not
        self._next_agreement = 0
        self.losses = LossMonitor(self.group, self.device, lambda bad: explain(self, bad))
        self._resume()
        if self._rate_of_open_epoch:
            log.info("%s", self.end_epoch(self._rate_of_open_epoch))
        self.order.start = self.step
        train_mode(self.model, settings)

    @property
    def epochs_done(self) -> float:
        return self.step / self.order.steps_per_epoch

    @property
    def epoch_ended(self) -> bool:
        return self.step % self.order.steps_per_epoch == 0 or self.step == self.order.steps

    def set_learning_rate(self) -> float:
        settings = self.params.train
        epoch, within = divmod(self.step, self.order.steps_per_epoch)
        rate = learning_rate(
            epoch,
            within / self.order.steps_per_epoch,
            epochs=self.params.epochs,
            base=self.rate,
            factors=settings.gammas,
            milestones=settings.milestones,
            warmup=settings.warmup,
            schedule=settings.schedule,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    @property
    def how(self) -> dict[str, Any]:
        """What changes bits of a run, but not what it is: its shape is the total batch."""
        return {
            "processes": self.group.size,
            "compile": self.params.run.compile,
            "device": self.device.type,
            "precision": str(self.precision.dtype)[6:],
            "torch": str(torch.__version__),
        }

    def cost(self) -> Cost:
        peak = peak_flops(self.device) * self.group.size if self.precision.half else 0.0
        return Cost(3.0 * forward_flops(self.model), peak, self.device)

    def divisors(self, targets: list[Targets]) -> list[Tensor]:
        """What the losses of each batch of a step are divided by; processes' gradients are averaged, batches' added."""
        counts = [target.positives for target in targets]
        if self.params.train.loss_normalization == "local":
            return [count.clamp(min=1) * len(counts) for count in counts]
        everywhere = self.group.all_reduce_sum(torch.stack(counts).sum()).clamp(min=1)
        return [everywhere / self.group.size] * len(counts)

    def agrees_to_stop(self, requested: int, step_seconds: float) -> int:
        """The signal to stop by, 0 for none; several processes agree every few steps, so that they stop together."""
        if self.group.size > 1 and self.step < self._next_agreement and not self.epoch_ended:
            return 0
        signal, slowest = self.group.all_reduce_max([requested, step_seconds], self.device)
        steps = STEPS_TO_AGREE if slowest * STEPS_TO_AGREE < SECONDS_TO_AGREE else int(SECONDS_TO_AGREE / slowest)
        self._next_agreement = self.step + max(steps, 1)
        return int(signal)

    def note(self, part: int, losses: dict[str, Tensor]) -> None:
        """Remember the losses of this step's batch number `part`; nothing waits for the device."""
        self.losses.note(self.step * self.order.accumulation + part, losses)

    def did_step(self) -> None:
        self.losses.did_step()
        self.step += 1

    def end_epoch(self, rate: float) -> str:
        """Record the epoch, evaluate where it is due, save; returns a line to print."""
        epoch = -(-self.step // self.order.steps_per_epoch)
        losses = self.losses.mean()
        row = {
            "epoch": epoch,
            "step": self.step,
            "lr": float(f"{rate:.4g}"),
            "loss_loc": round(losses["loc"], 4),
            "loss_conf": round(losses["conf"], 4),
        }
        text = f"epoch {epoch}: saved"
        if epoch % self.params.train.evaluate_every == 0 or self.step == self.order.steps:
            self._rate_of_open_epoch = rate
            self.save()  # an evaluation takes minutes, and who interrupts it should lose no epoch
            with self.average.applied():
                self.group.broadcast_buffers(self.model)
                metrics = validate(self.model, self.priors.cpu(), self.val, self.size, self.device, self.group)
                if metrics["AP"] > self._best["AP"]:
                    self._best = {"AP": metrics["AP"], "epoch": epoch, "file": ""}
                    if self.params.train.keep == "best":
                        self._best["file"] = best_file(epoch)
                        self._write(lambda: save_best(self.unfinished, epoch, self.model))
            train_mode(self.model, self.params.train)
            row |= {"AP": round(metrics["AP"], 4), "AP50": round(metrics["AP50"], 4)}
            text = f"epoch {epoch}: AP {row['AP']:.4f} AP50 {row['AP50']:.4f}, saved"
        self.rows.append(row)
        self._rate_of_open_epoch = 0.0
        self.losses.reset()
        self.save()
        return text

    def save(self) -> None:
        self.losses.mean()  # never keep weights behind a loss that was not finite
        refuse_infinite_weights(self.model, self.step)
        losses = self.losses.state_dict()
        if self.group.is_main_process:
            self.inputs.warn_of_changes(self.unfinished / FOLDER)
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.state_dict(),
            "average": self.average.state_dict(),
            "rows": self.rows,
            "best": self._best,
            "rate_of_open_epoch": self._rate_of_open_epoch,
            "losses": losses,
            "how": self.how,
        }
        self._write(lambda: save_state(self.unfinished, state))

    def _write(self, write: Callable[[], None]) -> None:
        """Rank 0 writes; where it cannot, everyone raises its sentence instead of waiting for a process that ended."""
        problem = ""
        if self.group.is_main_process:
            try:
                write()
            except InputError as error:
                saved = checkpoints(self.unfinished)
                problem = f"{error}; it continues from {f'step {step_of(saved[-1])}' if saved else 'the start'}"
        if problem := self.group.all_gather(problem)[0]:
            raise InputError(problem)

    def _resume(self) -> None:
        state = load_state(self.unfinished)
        steps = self.group.all_gather(state["step"] if state else 0)
        if len(set(steps)) > 1:
            raise InputError(
                f"{self.unfinished}: the processes have read checkpoints of steps {steps}; see to the disk"
            )
        if self.group.is_main_process:  # and all have read
            discard_after(self.unfinished, steps[0])
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.precision.load_state_dict(state["scaler"])
        self.average.load_state_dict(state["average"])
        self.step, self.rows, self._best = state["step"], state["rows"], state["best"]
        self._rate_of_open_epoch = state["rate_of_open_epoch"]
        self.losses.load_state_dict(state["losses"])
        log.info("resuming at step %d of %d", self.step, self.order.steps)
        if changed := [f"{key} {state['how'][key]}" for key, now in self.how.items() if state["how"][key] != now]:
            log.warning(
                "warning: so far this run had %s: the same images follow in the same order, but with other bits than "
                "if it had gone on so",
                ", ".join(changed),
            )

    def outcome(self) -> TrainResult:
        if self._best["file"]:
            load_best(self.unfinished, self._best["file"], self.model)
            return TrainResult(self.model, self.rows, self.step, self._best["epoch"])
        if self.params.train.keep == "best":
            log.warning(
                "warning: train.keep is best, but no epoch has an AP: the validation images have no boxes that count; "
                "the last weights are kept"
            )
        with self.average.applied():
            final = copy.deepcopy(self.model)
        return TrainResult(final, self.rows, self.step, self.rows[-1]["epoch"])
