"""Speed of the network and of a training step, without data loading."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch

from m2det.config import PrecisionParams
from m2det.data.batch import Batch
from m2det.device import compile_model, reset_peak_memory, synchronize, to_device, use_fused_optimizer
from m2det.loss import MultiBoxLoss
from m2det.model import M2Det, build_model, prior_boxes
from m2det.model.flops import Cost, forward_flops, peak_flops
from m2det.model.preprocess import subtract_mean, to_memory_format
from m2det.train.amp import Precision
from m2det.train.optim import check_training_batch


def images_per_second(step: Callable[[], int], warmup: int, steps: int) -> float:
    """The median over `steps` calls after `warmup` ones; a call returns how many images it took, and waits for them."""
    rates = []
    for i in range(warmup + steps):
        start = time.perf_counter()
        images = step()
        if i >= warmup:
            rates.append(images / (time.perf_counter() - start))
    return statistics.median(rates)


def training_step(
    model: M2Det,
    network: torch.nn.Module,
    batch: Batch,
    precision: Precision,
    device: torch.device,
    max_grad_norm: float = 0.0,
) -> Callable[[], int]:
    """A function that trains on this one batch, waits for the device and returns the number of images.

    network: the model, or what torch.compile made of it.
    """
    batch, priors = batch.to(device), prior_boxes(model.config).to(device)
    fused, _ = use_fused_optimizer(device, "sgd")
    loss, optimizer = MultiBoxLoss(), torch.optim.SGD(model.parameters(), 1e-6, 0.9, fused=fused, foreach=not fused)
    never = torch.zeros((), dtype=torch.bool, device=device)
    model.train()

    def step() -> int:
        with precision.autocast():
            outputs = network(subtract_mean(batch.images, device))
        losses = loss(outputs, priors, batch.boxes, batch.labels)
        optimizer.zero_grad()
        precision.backward(losses["loc"] + losses["conf"])
        precision.step(optimizer, max_grad_norm, never)
        synchronize(device)
        return len(batch.images)

    return step


def training_rate(
    name: str, batch_size: int, dtype: Literal["float32", "float16", "bfloat16"], compile: bool, device: torch.device
) -> str:
    """A line on training steps without a loader, 80 classes, on made-up images with 8 objects each: the median of 20
    after 5 more."""
    level: Literal["O0", "O1"] = "O0" if dtype == "float32" else "O1"
    half: Literal["float16", "bfloat16"] = "bfloat16" if dtype == "float32" else dtype
    torch.manual_seed(0)
    reset_peak_memory(device)
    model = build_model(name, 80)
    check_training_batch(model.config, batch_size, "--batch")
    to_device(model, device)
    network = compile_model(model, device) if compile else model
    precision = Precision(PrecisionParams(opt_level=level, loss_scale=32.0, dtype=half, backend="native"), device)
    corners, sides = torch.rand(batch_size, 16, 2) * 0.6, torch.rand(batch_size, 16, 2) * 0.3 + 0.05
    labels = torch.randint(1, 81, (batch_size, 16)) * (torch.arange(16) < 8)
    images = torch.randint(0, 256, (batch_size, 3, model.config.size, model.config.size), dtype=torch.uint8)
    batch = Batch(images, torch.cat([corners, corners + sides], -1), labels, torch.arange(batch_size))
    rate = images_per_second(training_step(model, network, batch, precision, device), 5, 20)
    cost = Cost(3.0 * forward_flops(model), peak_flops(device) if precision.half else 0.0, device)
    way = "compiled" if compile else "eager"
    return f"batch {batch_size:<3} {dtype:<8} {way:<8} {rate:8.2f} img/s {cost.achieved(rate)}"


def forward_backward(name: str, batch_size: int, device: torch.device, rounds: int) -> dict[str, float]:
    """Seconds of a forward and backward pass with 80 classes: plain (NCHW, float32), and as training does it.

    The loss is a sum: what is measured is the network. Each is the least of `rounds`, taken in turn.
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
