"""Training: the loop itself, and what it needs around it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from m2det.config import Params
from m2det.data.loader import TrainingOrder, TrainingSamples, training_loader
from m2det.data.store import PackedSplit
from m2det.device import choose_device, normalise, place_model
from m2det.errors import InputError
from m2det.loss import MultiBoxLoss
from m2det.model import M2Det, build_model, prior_boxes
from m2det.train.checkpoint import load_state, save_state
from m2det.train.log import TrainingLog
from m2det.train.precision import Precision
from m2det.train.schedule import learning_rate
from m2det.train.stop import StopRequest
from m2det.train.validate import validate

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """A finished training: the kept weights, one row per epoch for the curves, and where it ended."""

    model: M2Det
    rows: list[dict[str, Any]]
    steps: int
    kept_epoch: int


def train(params: Params, cache: Path, backbone: Path, unfinished: Path, log_file: Path) -> Outcome:
    """Train on the cache's split `train`, validate on `val`; resume what `unfinished` holds.

    Raises InputError for settings that the data does not allow and for a loss that is not finite.
    """
    run = Run(params, cache, backbone, unfinished)
    with (
        StopRequest() as stop,
        TrainingLog(log_file, run.step, run.order.steps, params.train.batch_size) as report,
    ):
        loader = training_loader(run.samples, run.order, params.train.workers, run.device.type != "cpu")
        for batch in loader:
            report.got_batch()
            rate = run.set_learning_rate()
            batch = batch.to(run.device)
            with run.precision.autocast():
                outputs = run.model(normalise(batch.images, run.device))
            losses = run.loss(outputs, run.priors, batch.boxes, batch.labels)
            run.optimizer.zero_grad()
            run.precision.backward(losses["loc"] + losses["conf"])
            run.precision.step(run.optimizer, params.train.clip_norm)
            run.note(losses)
            report.did_step()
            if run.step % params.train.log_every == 0 or run.epoch_ended or stop.requested:
                report.progress(run.step, run.epochs_done, params.epochs, run.mean_losses(), rate)
            if run.epoch_ended:
                report.line(run.end_epoch(rate))
                report.resume_clock()
            if stop.requested:
                run.save()
                report.line(f"stopped at step {run.step}; the same command continues from there")
                raise SystemExit(128 + stop.requested)
    return run.outcome()


@dataclass
class Run:
    """Everything that one training holds. What must survive an interruption is `state`."""

    params: Params
    cache: Path
    backbone: Path
    unfinished: Path
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    _bad_step: Tensor = field(init=False)

    def __post_init__(self) -> None:
        params, settings = self.params, self.params.train
        if params.processes not in (1, "auto"):
            raise InputError(f"processes is {params.processes}, but this version trains with 1; set processes: 1")
        self.device = choose_device(params.device)
        self.precision = Precision(params.precision, self.device)
        self.split, self.val = PackedSplit(self.cache, "train"), PackedSplit(self.cache, "val")
        torch.manual_seed(params.seed)
        self.model = build_model(params.model.name, len(self.split.classes), sfam=params.model.sfam)
        self.model.base.load_state_dict(load_file(str(self.backbone)))
        place_model(self.model, self.device)
        self.size = self.model.config.size
        self.priors = prior_boxes(self.model.config).to(self.device)
        self.loss = MultiBoxLoss()
        self.optimizer = self._make_optimizer()
        self.samples = TrainingSamples(self.split, self.size, params.seed, settings)
        self.order = TrainingOrder(len(self.split), settings.batch_size, params.seed, 0)
        self.order.steps = params.epochs * self.order.steps_per_epoch
        if settings.max_steps:
            self.order.steps = min(self.order.steps, settings.max_steps)
        self._best: dict[str, Any] = {"AP": -1.0, "epoch": 0, "model": None}
        self._reset_sums()
        self._resume()
        self.order.start = self.step
        self.model.train()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        settings = self.params.train
        if settings.optimizer == "adamw":
            return torch.optim.AdamW(
                self.model.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True
            )
        return torch.optim.SGD(
            self.model.parameters(),
            settings.lr,
            settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )

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
            base=settings.lr,
            factors=settings.lr_factors,
            milestones=settings.milestones,
            warmup=settings.warmup,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def note(self, losses: dict[str, Tensor]) -> None:
        """Count the step and add its losses up on the device; nothing waits for it."""
        both = torch.stack([losses["loc"], losses["conf"]]).detach()
        first = self._bad_step < 0
        self._bad_step = torch.where(first & ~both.isfinite().all(), self.step, self._bad_step)
        self._loss_sum += both
        self._loss_count += 1
        self.step += 1

    def mean_losses(self) -> dict[str, float]:
        """Over the epoch so far. Raises InputError where one was not finite, with the step's image ids."""
        bad = int(self._bad_step)
        if bad >= 0:
            ids = [int(self.split.image_ids[i]) for _, i in self.order.batch(bad)]
            raise InputError(
                f"the loss of step {bad + 1} is not finite; images {ids}; lower train.lr, or look at these images' "
                "boxes; what was trained before it is kept"
            )
        loc, conf = (self._loss_sum / self._loss_count).tolist()
        return {"loc": loc, "conf": conf}

    def end_epoch(self, rate: float) -> str:
        """Record the epoch, evaluate where it is due, save; returns a line to print."""
        epoch = -(-self.step // self.order.steps_per_epoch)
        losses = self.mean_losses()
        row = {
            "epoch": epoch,
            "step": self.step,
            "lr": float(f"{rate:.4g}"),
            "loss_loc": round(losses["loc"], 4),
            "loss_conf": round(losses["conf"], 4),
        }
        text = f"epoch {epoch}: saved"
        if epoch % self.params.train.evaluate_every == 0 or self.step == self.order.steps:
            metrics = validate(self.model, self.priors.cpu(), self.val, self.size, self.device)
            row |= {"AP": round(metrics["AP"], 4), "AP50": round(metrics["AP50"], 4)}
            text = f"epoch {epoch}: AP {row['AP']:.4f} AP50 {row['AP50']:.4f}, saved"
            if metrics["AP"] > self._best["AP"]:
                keep = self.params.train.keep == "best"
                weights = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()} if keep else None
                self._best = {"AP": metrics["AP"], "epoch": epoch, "model": weights}
        self.rows.append(row)
        self._reset_sums()
        self.save()
        return text

    def _reset_sums(self) -> None:
        self._loss_sum = torch.zeros(2, device=self.device)
        self._loss_count = 0
        self._bad_step = torch.tensor(-1, device=self.device)

    def save(self) -> None:
        self.mean_losses() if self._loss_count else None  # never keep weights behind a loss that was not finite
        save_state(
            self.unfinished,
            {
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rows": self.rows,
                "best": self._best,
                "loss_sum": self._loss_sum,
                "loss_count": self._loss_count,
            },
        )

    def _resume(self) -> None:
        state = load_state(self.unfinished)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.rows, self._best = state["step"], state["rows"], state["best"]
        self._loss_sum, self._loss_count = state["loss_sum"].to(self.device), state["loss_count"]
        log.info("resuming at step %d of %d", self.step, self.order.steps)

    def outcome(self) -> Outcome:
        if self._best["model"] is not None:
            self.model.load_state_dict(self._best["model"])
            return Outcome(self.model, self.rows, self.step, self._best["epoch"])
        return Outcome(self.model, self.rows, self.step, self.rows[-1]["epoch"])
