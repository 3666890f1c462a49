"""Everything that one training holds, and what of it survives an interruption."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2det.config import Params
from m2det.data.loader import TrainingOrder, TrainingSamples, collate
from m2det.data.store import PackedSplit
from m2det.device import choose_device, normalise, place_model, synchronise_norms
from m2det.errors import InputError
from m2det.loss import MultiBoxLoss
from m2det.model import M2Det, build_model, prior_boxes
from m2det.pretrained import load_initial
from m2det.train.checkpoint import load_state, save_state
from m2det.train.diagnose import first_nonfinite
from m2det.train.ema import Average
from m2det.train.group import Group
from m2det.train.optimizer import base_rate, check_training_batch, freeze, make_optimizer, train_mode
from m2det.train.precision import Precision
from m2det.train.schedule import learning_rate
from m2det.train.validate import validate

log = logging.getLogger(__name__)

STEPS_TO_AGREE = 10  # on stopping: agreeing waits for the device


@dataclass
class Outcome:
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
    bad_step: Tensor = field(init=False)  # the first whose loss is not finite, from 0; -1: none

    def __post_init__(self) -> None:
        params, settings = self.params, self.params.train
        self.device = self.group.own_device(choose_device(params.device))
        self.group.connect(self.device)
        self.precision = Precision(params.precision, self.device)
        self.split, self.val = PackedSplit(self.cache, "train"), PackedSplit(self.cache, "val")
        torch.manual_seed(params.seed)
        self.model = build_model(params.model.name, len(self.split.classes), **params.model.all_overrides)
        check_training_batch(self.model.config, settings.batch_size, "train.batch_size")
        if settings.sync_norms:
            synchronise_norms(self.model, self.device)
        load_initial(self.model, self.backbone, params.weights.least_match)
        freeze(self.model, settings.freeze_backbone)
        place_model(self.model, self.device)
        self.size = self.model.config.size
        self.priors = prior_boxes(self.model.config).to(self.device)
        self.loss = MultiBoxLoss(label_smoothing=settings.label_smoothing)
        self.network = self.group.wrap(self.model, self.device)
        self.rate = base_rate(settings, self.group.size)
        self.optimizer = make_optimizer(self.model, settings, self.rate)
        self.average = Average(self.model, settings.ema)
        self.samples = TrainingSamples(self.split, self.size, params.seed, settings)
        self.order = TrainingOrder(
            len(self.split), settings.batch_size, params.seed, 0, rank=self.group.rank, processes=self.group.size
        )
        self.order.steps = params.epochs * self.order.steps_per_epoch
        if settings.max_steps:
            self.order.steps = min(self.order.steps, settings.max_steps)
        self._best: dict[str, Any] = {"AP": -1.0, "epoch": 0, "model": {}}
        self._rate_of_open_epoch = 0.0  # above 0: the epoch's steps are done, its evaluation is not
        self._reset_sums()
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
            factors=settings.lr_factors,
            milestones=settings.milestones,
            warmup=settings.warmup,
            schedule=settings.schedule,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    @property
    def failed(self) -> Tensor:
        """bool scalar on the device: some process has had a loss that is not finite."""
        return self.group.any(self.bad_step >= 0)

    def agrees_to_stop(self, requested: int) -> int:
        """The signal to stop by, 0 for none; several processes agree every tenth step, so that they stop together."""
        if self.group.size > 1 and self.step % STEPS_TO_AGREE and not self.epoch_ended:
            return 0
        return max(self.group.gather(requested))

    def note(self, losses: dict[str, Tensor]) -> None:
        """Count the step and add its losses up on the device; nothing waits for it."""
        both = torch.stack([losses["loc"], losses["conf"]]).detach()
        first = self.bad_step < 0
        self.bad_step = torch.where(first & ~both.isfinite().all(), self.step, self.bad_step)
        self._loss_sum += both
        self._loss_count += 1
        self.step += 1

    def mean_losses(self) -> dict[str, float]:
        """Over the epoch so far and all processes. Raises InputError where one was not finite, saying where."""
        bad = int(self.bad_step)
        troubles = self.group.gather((bad, self._explain(bad)) if bad >= 0 else None)
        if any(troubles):
            raise InputError(min(trouble for trouble in troubles if trouble)[1])
        loc, conf = self.group.mean(self._loss_sum / self._loss_count).tolist()
        return {"loc": loc, "conf": conf}

    def _explain(self, bad: int) -> str:
        """The weights are still those of the bad step: no update came after it."""
        samples = [self.samples[key] for key in self.order.batch(bad)]
        images = normalise(collate(samples).to(self.device).images, self.device)
        with self.precision.autocast():
            source = first_nonfinite(self.model, images)
        ids = [int(self.split.image_ids[i]) for _, i in self.order.batch(bad)]
        where = f" in process {self.group.rank}" if self.group.size > 1 else ""
        return (
            f"the loss of step {bad + 1}{where} is not finite; first: {source}; images {ids}; lower train.lr or set "
            "train.clip_norm, or look at these images"
        )

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
            self._rate_of_open_epoch = rate
            self.save()  # an evaluation takes minutes, and who interrupts it should lose no epoch
            with self.average.applied():
                self.group.share_buffers(self.model)
                metrics = validate(self.model, self.priors.cpu(), self.val, self.size, self.device, self.group)
                if metrics["AP"] > self._best["AP"]:
                    keep = self.params.train.keep == "best"
                    state = self.model.state_dict() if keep else {}
                    weights = {k: v.detach().cpu().clone() for k, v in state.items()}
                    self._best = {"AP": metrics["AP"], "epoch": epoch, "model": weights}
            train_mode(self.model, self.params.train)
            row |= {"AP": round(metrics["AP"], 4), "AP50": round(metrics["AP50"], 4)}
            text = f"epoch {epoch}: AP {row['AP']:.4f} AP50 {row['AP50']:.4f}, saved"
        self.rows.append(row)
        self._rate_of_open_epoch = 0.0
        self._reset_sums()
        self.save()
        return text

    def _reset_sums(self) -> None:
        self._loss_sum = torch.zeros(2, device=self.device)
        self._loss_count = 0
        self.bad_step = torch.tensor(-1, device=self.device)

    def save(self) -> None:
        self.mean_losses() if self._loss_count else None  # never keep weights behind a loss that was not finite
        self._refuse_infinite_weights()
        if not self.group.leads:
            return
        save_state(
            self.unfinished,
            {
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict(),
                "rows": self.rows,
                "best": self._best,
                "rate_of_open_epoch": self._rate_of_open_epoch,
                "loss_sum": self._loss_sum,
                "loss_count": self._loss_count,
            },
        )

    def _refuse_infinite_weights(self) -> None:
        """A finite loss may have an infinite gradient."""
        floating = {k: v for k, v in self.model.state_dict().items() if v.is_floating_point()}
        finite = torch.stack([value.isfinite().all() for value in floating.values()]).tolist()
        for name, sound in zip(floating, finite, strict=True):
            if not sound:
                raise InputError(
                    f"after step {self.step} the weights {name} are not finite, by the gradient of a loss that was; "
                    "lower train.lr or set train.clip_norm"
                )

    def _resume(self) -> None:
        state = load_state(self.unfinished)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.step, self.rows, self._best = state["step"], state["rows"], state["best"]
        self._rate_of_open_epoch = state["rate_of_open_epoch"]
        self._loss_sum, self._loss_count = state["loss_sum"].to(self.device), state["loss_count"]
        log.info("resuming at step %d of %d", self.step, self.order.steps)

    def outcome(self) -> Outcome:
        if self._best["model"]:
            self.model.load_state_dict(self._best["model"])
            return Outcome(self.model, self.rows, self.step, self._best["epoch"])
        with self.average.applied():
            final = copy.deepcopy(self.model)
        return Outcome(final, self.rows, self.step, self.rows[-1]["epoch"])
