"""The optimizer: which parameters it trains, how they decay, and their learning rate."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from m2det.config import Params, TrainParams
from m2det.device import optimizer_kernels
from m2det.errors import InputError
from m2det.model import M2DetConfig
from m2det.train.schedule import learning_rate

log = logging.getLogger(__name__)

MAX_LR_SCALE = 1.5  # times as many images per step as train.lr is given for, before a warning


def make_optimizer(model: nn.Module, settings: TrainParams, lr: float) -> torch.optim.Optimizer:
    """Return SGD or AdamW over the parameters to train, of which norms and biases decay only if the settings say so."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decaying = [p for p in trained if settings.weight_decay_norm_bias or p.ndim > 1]
    groups = [{"params": decaying}]
    if not settings.weight_decay_norm_bias:
        groups.append({"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0})  # type: ignore[dict-item]
    kernels, reason = optimizer_kernels(trained[0].device, settings.optimizer)
    log.info("optimizer: %s, %s (%s)", settings.optimizer, kernels, reason)
    fused, foreach = kernels == "fused", kernels == "foreach"
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr, weight_decay=settings.weight_decay, fused=fused, foreach=foreach)
    sgd = torch.optim.SGD(
        groups, lr, settings.momentum, weight_decay=settings.weight_decay, fused=fused, foreach=foreach
    )
    for parameter in trained if settings.momentum else ():
        # else a first step that is skipped (an overflow) would leave an uninitialized momentum buffer
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a saved state, perhaps of another device; kernels and memory formats stay those of this optimizer."""
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        saved.update({key: own[key] for key in ("fused", "foreach")})
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                # fused kernels assume that a parameter and its state have the same memory format
                values[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameter groups this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def lr_of_step(params: Params, base: float, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of step `step` (from 0, over all epochs), which is `base` after the warm-up."""
    epoch, within = divmod(step, steps_per_epoch)
    return learning_rate(
        epoch,
        within / steps_per_epoch,
        epochs=params.epochs,
        base=base,
        factors=params.train.gammas,
        milestones=params.train.milestones,
        warmup=params.train.warmup,
        schedule=params.train.schedule,
    )


def scaled_lr(settings: TrainParams) -> float:
    """Return train.lr times train.batch_size over train.lr_batch_size, the batch size for which lr was found.

    A step with far more images gets a warning: the original at 320 px reached 33 AP with a batch size of at most 32 and
    a learning rate of 0.004, and 22 AP with a batch size of 56 (issue 45 of its repository).
    """
    lr = settings.lr * settings.batch_size / settings.lr_batch_size
    scaled = f"train.lr {settings.lr:g} is for {settings.lr_batch_size}"
    scaled = "as given" if settings.batch_size == settings.lr_batch_size else scaled
    log.info("learning rate: %g for %d images per step (%s)", lr, settings.batch_size, scaled)
    if settings.batch_size > MAX_LR_SCALE * settings.lr_batch_size:
        log.warning(
            "warning: a step has %.1f times the images that train.lr was found for, and scaling a learning rate that "
            "far is known to cost accuracy; check that AP rises as it did before, or lower train.lr",
            settings.batch_size / settings.lr_batch_size,
        )
    return lr


def check_training_batch(config: M2DetConfig, images: int, name: str) -> None:
    """Raise InputError for a microbatch of one image (set by the option `name`) where batch normalisation needs two."""
    if images == 1 and config.feature_sizes[-1] == 1:
        raise InputError(
            f"{name} is 1, but the smallest map of {config.name} is 1x1: batch normalisation has nothing to "
            f"normalise over; set {name} to 2 or more"
        )


def train_mode(model: nn.Module, settings: TrainParams) -> None:
    """Call model.train(), and then eval() on what is frozen, whose batch normalisation keeps its statistics."""
    model.train()
    if settings.freeze_backbone:
        model.get_submodule("base").eval()
    if settings.freeze_bn_stats:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
