"""The optimizer: which parameters it has, how they decay, and the rate and batches that suit it."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from m2det.config import TrainParams
from m2det.device import use_fused_optimizer
from m2det.errors import InputError
from m2det.model import M2DetConfig

log = logging.getLogger(__name__)

FARTHEST = 1.5  # times as many images per step as a rate was given for


def make_optimizer(model: nn.Module, settings: TrainParams, rate: float) -> torch.optim.Optimizer:
    """SGD or AdamW over what is to be trained; without train.weight_decay_norm_bias, norms and biases do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decaying = [p for p in trained if settings.weight_decay_norm_bias or p.ndim > 1]
    groups = [{"params": decaying}]
    if not settings.weight_decay_norm_bias:
        groups.append({"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0})  # type: ignore[dict-item]
    fused, reason = use_fused_optimizer(trained[0].device, settings.optimizer)
    log.info("optimizer: %s, %s (%s)", settings.optimizer, "fused" if fused else "foreach", reason)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, rate, weight_decay=settings.weight_decay, fused=fused, foreach=not fused)
    sgd = torch.optim.SGD(
        groups, rate, settings.momentum, weight_decay=settings.weight_decay, fused=fused, foreach=not fused
    )
    for parameter in trained if settings.momentum else ():
        # else a first step that is left out (an overflow) would leave momentum that nobody has set
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continue from a saved state, perhaps another device's: kernels and memory formats stay this one's."""
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        saved.update({key: own[key] for key in ("fused", "foreach")})
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                # fused kernels take it for granted that both lie in memory in one order
                values[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def scaled_lr(settings: TrainParams) -> float:
    """Return train.lr times train.batch_size over train.lr_batch_size, the batch that it was found for.

    Warns far above it: the original at 320 px reached 33 AP with a batch of at most 32 at 0.004, and 22 with 56 (its
    issue 45).
    """
    rate = settings.lr * settings.batch_size / settings.lr_batch_size
    scaled = f"train.lr {settings.lr:g} is for {settings.lr_batch_size}"
    scaled = "as given" if settings.batch_size == settings.lr_batch_size else scaled
    log.info("learning rate: %g for %d images per step (%s)", rate, settings.batch_size, scaled)
    if settings.batch_size > FARTHEST * settings.lr_batch_size:
        log.warning(
            "warning: a step has %.1f times the images that train.lr was found for, and scaling a rate that far is "
            "known to cost accuracy; see that AP rises as it did before, or lower train.lr",
            settings.batch_size / settings.lr_batch_size,
        )
    return rate


def check_training_batch(config: M2DetConfig, images: int, name: str) -> None:
    """Raises InputError for a batch per process, called `name`, that batch normalisation cannot train on."""
    if images == 1 and config.feature_sizes[-1] == 1:
        raise InputError(
            f"{name} is 1, but the smallest map of {config.name} is 1x1: batch normalisation has nothing to "
            f"subtract_mean over; set {name} to 2 or more"
        )


def freeze(model: nn.Module, backbone: bool) -> None:
    """Take the backbone out of the training."""
    if backbone:
        for parameter in model.get_submodule("base").parameters():
            parameter.requires_grad_(False)


def train_mode(model: nn.Module, settings: TrainParams) -> None:
    """model.train(), but for what is frozen: with it, batch normalisation keeps its statistics."""
    model.train()
    if settings.freeze_backbone:
        model.get_submodule("base").eval()
    if settings.freeze_bn_stats:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
