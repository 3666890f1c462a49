"""Speed of the network and of a training step, without data loading."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch

from m2det.config import PrecisionParams, TrainParams
from m2det.config.schema import defaults
from m2det.data.batch import Batch
from m2det.device import reset_peak_memory, synchronize, to_device, to_memory_format
from m2det.distributed.group import ALONE
from m2det.model import build_model
from m2det.train.amp import Precision
from m2det.train.build import TrainingParts, build_parts
from m2det.train.loss_monitor import LossMonitor
from m2det.train.optim import check_training_batch, set_lr
from m2det.train.schedule import WARMUP_START_LR
from m2det.train.trainer import train_step

ONE_IMAGE = {"batch_size": 1, "microbatch": 1, "lr_batch_size": 1}
# the learning rate at which a warm-up begins, as repeated_step sets it
SETTINGS = TrainParams.model_validate(defaults()["train"] | ONE_IMAGE | {"lr": WARMUP_START_LR, "weight_decay": 0.0})


def images_per_second(step: Callable[[], int], warmup: int, steps: int) -> float:
    """Return the median over `steps` calls after `warmup` calls; a call waits for its images and returns how many."""
    rates = []
    for i in range(warmup + steps):
        start = time.perf_counter()
        images = step()
        if i >= warmup:
            rates.append(images / (time.perf_counter() - start))
    return statistics.median(rates)


def repeated_step(parts: TrainingParts, batch: Batch) -> Callable[[], int]:
    """Return a function that trains on this one batch, waits for the device and returns the number of images.

    The learning rate is the one at which a warm-up begins: training on one batch must not diverge.
    """
    batch = batch.to(parts.device)
    monitor = LossMonitor(parts.group, parts.device, str)
    set_lr(parts.optimizer, WARMUP_START_LR)

    def step() -> int:
        train_step(parts, monitor, 0, [batch])
        synchronize(parts.device)
        return len(batch.images)

    return step


def training_rate(
    name: str, batch_size: int, dtype: Literal["float32", "float16", "bfloat16"], compile: bool, device: torch.device
) -> str:
    """Return a line on training steps without a loader: the median of 20 after 5 more.

    Args:
        name: of the model, which gets 80 classes.
        batch_size: made-up images, with 8 objects each.
        dtype: what the network computes in.
        compile: whether torch.compile makes the network.
        device: that computes.
    """
    level: Literal["O0", "O1"] = "O0" if dtype == "float32" else "O1"
    low: Literal["float16", "bfloat16"] = "bfloat16" if dtype == "float32" else dtype
    torch.manual_seed(0)
    reset_peak_memory(device)
    model = build_model(name, 80)
    check_training_batch(model.config, batch_size, "--batch")
    precision = PrecisionParams(opt_level=level, loss_scale=32.0, dtype=low, backend="native")
    parts = build_parts(model, SETTINGS, precision, device, ALONE, compile)
    batch = made_up_batch(batch_size, model.config.size, 80)
    rate = images_per_second(repeated_step(parts, batch), 5, 20)
    mode = "compiled" if compile else "eager"
    return f"batch {batch_size:<3} {dtype:<8} {mode:<8} {rate:8.2f} img/s {parts.cost().achieved(rate)}"


def made_up_batch(images: int, size: int, classes: int) -> Batch:
    """Return random images of `size` pixels with 8 objects each."""
    corners, sides = torch.rand(images, 16, 2) * 0.6, torch.rand(images, 16, 2) * 0.3 + 0.05
    labels = torch.randint(1, classes + 1, (images, 16)) * (torch.arange(16) < 8)
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)
    return Batch(pixels, torch.cat([corners, corners + sides], -1), labels, torch.arange(images))


def forward_backward(name: str, batch_size: int, device: torch.device, rounds: int) -> dict[str, float]:
    """Return the seconds of a forward and backward pass of the network, with the sum of its outputs as the loss.

    Args:
        name: of the model, which gets 80 classes.
        batch_size: images.
        device: that computes.
        rounds: of both measurements in turn, of which the minimum counts.

    Returns:
        `plain` (NCHW, float32) and `training` (memory format and precision of a training).
    """
    torch.manual_seed(0)
    models = {"plain": build_model(name, 80).to(device), "training": build_model(name, 80)}
    to_device(models["training"], device)
    levels: dict[str, Literal["O0", "O1"]] = {"plain": "O0", "training": "O1"}
    precisions = {
        kind: Precision(PrecisionParams(opt_level=level, loss_scale=32.0, dtype="auto", backend="native"), device)
        for kind, level in levels.items()
    }
    size = models["plain"].config.size
    check_training_batch(models["plain"].config, batch_size, "--batch")
    images = torch.randn(batch_size, 3, size, size).to(device)
    times: dict[str, list[float]] = {kind: [] for kind in models}
    for _ in range(rounds):
        for kind, model in models.items():
            synchronize(device)
            start = time.perf_counter()
            with precisions[kind].autocast():
                outputs = model(to_memory_format(images, device) if kind == "training" else images)
            (outputs["loc"].float().sum() + outputs["conf"].float().sum()).backward()
            synchronize(device)
            times[kind].append(time.perf_counter() - start)
            model.zero_grad()
    return {kind: min(values) for kind, values in times.items()}
