"""Build what a training consists of, from its parameters: model, optimizer, precision, data."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m2det.config import Params, PrecisionParams, TrainParams
from m2det.data.dataset import TrainingDataset
from m2det.data.packed.reader import PackedSplit
from m2det.data.sampler import TrainingBatchSampler
from m2det.device import compile_model, convert_sync_bn, to_device
from m2det.distributed.group import Group
from m2det.loss import AlignedLoss, MultiBoxLoss, Objective
from m2det.model import M2Det, build_model, prior_boxes
from m2det.model.flops import Cost, forward_flops, peak_flops
from m2det.model.pretrained import load_initial
from m2det.train.amp import Precision
from m2det.train.ema import ModelEma
from m2det.train.graph import check_graph, graphed_network
from m2det.train.optim import check_training_batch, make_optimizer, scaled_lr, train_mode

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingParts:
    """What a training step computes with.

    Attributes:
        settings: the section `train`.
        group: the processes that train together.
        device: of this process.
        model: in training mode, on the device.
        network: the model, compiled or with captured graphs, and wrapped for several processes where asked for.
        priors: float32 [P,4] cxcywh in [0,1], on the device.
        objective: of the settings: its two losses.
        lr: the learning rate after the warm-up.
        optimizer: over the parameters of the model that are trained.
        precision: autocast, loss scale and update.
        ema: the moving average of the model's weights.
    """

    settings: TrainParams
    group: Group
    device: torch.device
    model: M2Det
    network: nn.Module
    priors: Tensor
    objective: Objective[Any]
    lr: float
    optimizer: torch.optim.Optimizer
    precision: Precision
    ema: ModelEma

    def cost(self) -> Cost:
        """Return the floating-point operations of training on one image, and the peak of all devices together."""
        peak = peak_flops(self.device) * self.group.size if self.precision.low_precision else 0.0
        return Cost(3.0 * forward_flops(self.model), peak, self.device)


@dataclass(frozen=True)
class TrainingData:
    """Images and their order: both splits of the packed cache, augmented samples, and the images of each step."""

    train: PackedSplit
    val: PackedSplit
    samples: TrainingDataset
    order: TrainingBatchSampler


def build_training(
    params: Params, cache: Path, backbone: Path, device: torch.device, group: Group
) -> tuple[TrainingParts, TrainingData]:
    """Return parts and data at step 0 of a training.

    Args:
        params: of the training.
        cache: the packed cache.
        backbone: pretrained weights.
        device: of this process.
        group: already joined.

    Raises:
        InputError: parameters that the data, the model or the device does not allow.
    """
    train, val = PackedSplit(cache, "train"), PackedSplit(cache, "val")
    torch.manual_seed(params.seed)
    model = build_model(params.model.name, len(train.classes), **params.model.all_overrides)
    check_training_batch(model.config, params.train.microbatch, "train.microbatch")
    load_initial(model, backbone, params.weights.min_match)
    run = params.run
    parts = build_parts(model, params.train, params.precision, device, group, run.compile, run.graph)
    samples = TrainingDataset(train, model.config.size, params.seed, params.train)
    return parts, TrainingData(train, val, samples, make_order(params, len(train), group))


def build_parts(
    model: M2Det,
    settings: TrainParams,
    precision_params: PrecisionParams,
    device: torch.device,
    group: Group,
    compile: bool,
    graph: bool = False,
) -> TrainingParts:
    """Move the model to the device and return it with all that trains it."""
    if graph:
        check_graph(settings, precision_params, compile, device, group.size)
    precision = make_precision(precision_params, device)
    if settings.sync_bn:
        convert_sync_bn(model, device)
    if settings.freeze_backbone:
        model.get_submodule("base").requires_grad_(False)
    to_device(model, device)
    train_mode(model, settings)
    lr = scaled_lr(settings)
    optimizer = make_optimizer(model, settings, lr)
    precision.prepare(model, optimizer)
    with model.in_forward_order():  # for the order in which gradients are averaged
        network: nn.Module = compile_model(model, device) if compile else model
        if graph:  # before the network is wrapped, as torch's documentation asks
            network = graphed_network(model, settings.microbatch, precision, device)
        network = group.wrap(network, device)
    priors, objective = prior_boxes(model.config).to(device), make_objective(settings)
    ema = ModelEma(model, settings.ema_decay)
    return TrainingParts(settings, group, device, model, network, priors, objective, lr, optimizer, precision, ema)


def make_objective(settings: TrainParams) -> Objective[Any]:
    """Return the losses of train.objective."""
    if settings.objective == "aligned":
        return AlignedLoss()
    return MultiBoxLoss(label_smoothing=settings.label_smoothing)


def make_order(params: Params, images: int, group: Group) -> TrainingBatchSampler:
    """Return this process's images of each step. Raises InputError where the processes cannot share a step evenly."""
    settings = params.train
    settings.accumulation(group.size)
    order = TrainingBatchSampler(
        images, settings.batch_size, params.seed, 0, 0, group.rank, group.size, settings.microbatch
    )
    steps = params.epochs * order.steps_per_epoch
    order.steps = min(steps, settings.max_steps) if settings.max_steps else steps
    return order


def make_precision(params: PrecisionParams, device: torch.device) -> Precision:
    """Return the precision of precision.backend. Raises InputError for apex without Ascend's build of it."""
    if params.backend == "apex":
        from m2det.train.apex import ApexPrecision

        apex = ApexPrecision(params, device)
        log.warning("warning: precision by %s", apex.reason)
        return apex
    precision = Precision(params, device)
    log.info("precision: %s", precision)
    return precision
