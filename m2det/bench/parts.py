"""Images per second of each part of a training alone, and which part is the bottleneck."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from m2det.bench.step import images_per_second, repeated_step
from m2det.config import Params
from m2det.data.batch import collate
from m2det.data.dataloader import training_loader
from m2det.data.dataset import PlainDataset, TrainingDataset
from m2det.data.packed.reader import PackedSplit
from m2det.data.sampler import TrainingBatchSampler
from m2det.device import device_name
from m2det.distributed.group import ALONE
from m2det.evaluate.inference import detect_images
from m2det.model import M2Det, prior_boxes
from m2det.train.build import build_parts
from m2det.train.optim import check_training_batch


def benchmark(params: Params, model: M2Det, cache: Path, device: torch.device) -> dict[str, Any]:
    """Measure the loader alone, a training step alone (on one batch), and detection alone (image decoding included).

    Args:
        params: for everything but the weights.
        model: its weights are changed.
        cache: the packed cache.
        device: that computes.

    Returns:
        The content of results/perf.json.
    """
    settings = params.benchmark
    split = PackedSplit(cache, "train")
    batch_size = min(settings.batch_size, len(split))
    check_training_batch(model.config, batch_size, "benchmark.batch_size")
    size = model.config.size
    priors = prior_boxes(model.config)
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
    plain = _forever(lambda: DataLoader(PlainDataset(split, size), batch_size, collate_fn=collate))

    def detect() -> int:
        images = next(plain).images
        detect_images(model, priors, images, [(size, size)] * len(images), device, params.evaluate)
        return len(images)

    rates["detection"] = images_per_second(detect, settings.warmup, settings.steps)
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
        "torch": torch.__version__,
    }


def _mean_rate(step: Callable[[], int], warmup: int, steps: int) -> float:
    """Return the mean over all steps: with workers, a single step finds its batch ready or waits for several."""
    for _ in range(warmup):
        step()
    start = time.perf_counter()
    images = sum(step() for _ in range(steps))
    return images / (time.perf_counter() - start)


def _forever(make: Callable[[], Any]) -> Iterator[Any]:
    return itertools.chain.from_iterable(make() for _ in itertools.count())
