"""Images per second of each part of a training alone, and which part is the bottleneck."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from m2det.bench.step import images_per_second, repeated_step
from m2det.config import Params
from m2det.data.dataloader import training_loader
from m2det.data.dataset import TrainingDataset
from m2det.data.packed.reader import PackedSplit
from m2det.data.sampler import TrainingBatchSampler
from m2det.device import device_name
from m2det.distributed.group import ALONE
from m2det.distributed.threads import load_average
from m2det.evaluate.inference import coco_results_of_split
from m2det.model import M2Det
from m2det.train.build import build_parts
from m2det.train.optim import check_training_batch


def benchmark(params: Params, model: M2Det, cache: Path, device: torch.device) -> dict[str, Any]:
    """Measure the loader alone, a training step alone (on one batch), and detection alone (image decoding and NMS
    included).

    Args:
        params: for everything but the weights.
        model: its weights are changed.
        cache: the packed cache.
        device: that computes.

    Returns:
        The content of results/perf.json; load_average is the machine's of the minute before (None where the platform
        has none), and says whether other processes ran.
    """
    load_before = load_average()
    settings = params.benchmark
    split = PackedSplit(cache, "train")
    batch_size = min(settings.batch_size, len(split))
    check_training_batch(model.config, batch_size, "benchmark.batch_size")
    size = model.config.size
    samples = TrainingDataset(split, size, params.seed, params.train)
    # long enough to measure the loader, and not its buffer of prefetched batches
    loader_steps = settings.steps + 8 * params.run.workers
    order = TrainingBatchSampler(len(split), batch_size, params.seed, settings.warmup + loader_steps)
    batches = iter(training_loader(samples, order, params.run.workers, device.type != "cpu"))

    def load() -> int:
        return len(next(batches).images)

    rates = {"loader": _mean_rate(load, settings.warmup, loader_steps)}
    batch = next(iter(training_loader(samples, order, 0, False)))
    parts = build_parts(model, params.train, params.precision, device, ALONE, params.run.compile)
    rates["training"] = images_per_second(repeated_step(parts, batch), settings.warmup, settings.steps)
    model.eval()
    images = batch_size * (settings.warmup + settings.steps + 8 * params.run.workers)
    indices = [i % len(split) for i in range(images)]
    evaluation = params.evaluate.model_copy(update={"batch_size": batch_size})
    detected = coco_results_of_split(model, parts.priors, split, size, device, evaluation, params.run.workers, indices)

    def detect() -> int:
        return len(list(itertools.islice(detected, batch_size)))

    rates["detection"] = _mean_rate(detect, settings.warmup, settings.steps + 8 * params.run.workers)
    slower = "loader" if rates["loader"] < rates["training"] else "training"
    return {
        "img_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "training_is_bound_by": "the loader" if slower == "loader" else "the network",
        "model": params.model.name,
        "batch_size": batch_size,
        "precision": str(parts.precision.dtype)[6:],
        "workers": params.run.workers,
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "load_average": None if load_before is None else round(load_before, 2),
        "torch": torch.__version__,
    }


def _mean_rate(step: Callable[[], int], warmup: int, steps: int) -> float:
    """Return the mean over all steps: with workers, a single step finds its batch ready or waits for several."""
    for _ in range(warmup):
        step()
    start = time.perf_counter()
    images = sum(step() for _ in range(steps))
    return images / (time.perf_counter() - start)
