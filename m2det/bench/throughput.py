"""The seed's measure of speed: images per second of a training as it is, loading and all; in one process or several.

As a module it is one of several processes, as torchrun starts them: PARAMS CACHE BACKBONE FOLDER.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from m2det.config import Params, load_params
from m2det.data.dataloader import training_loader
from m2det.device import device_name, synchronize
from m2det.distributed.group import Group
from m2det.distributed.launch import run_worker
from m2det.train.prefetch import gc_disabled, group_microbatches, prefetch_to_device
from m2det.train.state import Run
from m2det.train.trainer import train_step

RESULT = "performance.json"  # in FOLDER
PUBLISHED = {1: 4.638, 8: 60.997}  # processes -> img/s (the seed's README)
PUBLISHED_OF = "m2det512-vgg16, 16 images per process, O1, on Ascend 910 NPUs"


def measure(params: Params, cache: Path, backbone: Path, group: Group) -> dict[str, Any]:
    """Train benchmark.warmup + benchmark.steps steps and time the latter; nothing is kept of the weights.

    img_per_s is images per step over the mean step, as the seed has it; step_s_p50 the median, which a few slow
    steps do not move. Every process of the group calls it alike and gets rank 0's numbers.
    """
    settings = params.benchmark
    steps = settings.warmup + settings.steps
    # as many epochs as it takes, at the rate where a warm-up begins: nothing is to be learnt
    train = params.train.model_copy(update={"max_steps": steps, "warmup": 1.0})
    params = params.model_copy(update={"epochs": 10**6, "train": train})
    with tempfile.TemporaryDirectory() as empty, gc_disabled():
        run = Run(params, cache, backbone, Path(empty), group)
        loader = training_loader(run.samples, run.order, params.run.workers, run.device.type != "cpu")
        ends = []
        for batches in group_microbatches(prefetch_to_device(loader, run.device), run.order.accumulation):
            run.set_learning_rate()
            train_step(run, batches)
            if run.step in (settings.warmup, steps):
                synchronize(run.device)
            if run.step >= settings.warmup:
                ends.append(time.perf_counter())
        run.losses.mean()  # raises where they were not finite: such a speed means nothing
    per_second = settings.steps * run.order.batch_size / (ends[-1] - ends[0])
    cost = run.cost()
    return {
        "img_per_s": round(per_second, 3),
        "step_s_p50": round(statistics.median(b - a for a, b in itertools.pairwise(ends)), 4),
        "tflop_per_s": round(cost.flops * per_second / 1e12, 4),
        "mfu": round(cost.flops * per_second / cost.peak, 4) if cost.peak else None,
        "processes": group.size,
        "images_per_step": run.order.batch_size,
        "model": params.model.name,
        "precision": str(run.precision.dtype)[6:],
        "device": run.device.type,
        "device_name": device_name(run.device),
        "torch": str(torch.__version__),
    }


def compare(found: dict[str, Any]) -> str:
    """Two lines: what was measured and on what, and what the seed published."""
    published = ", ".join(f"{rate} img/s with {processes}" for processes, rate in PUBLISHED.items())
    where = f"{found['processes']} x {found['device_name']}"
    mark = "" if found["device"] == "npu" else f" ({found['device']}: NOT an NPU)"
    same = found["model"] == "m2det512-vgg16" and found["images_per_step"] == 16 * found["processes"]
    what = "the same model and batch" if same else f"not comparable: this is {found['model']}"
    return (
        f"{found['img_per_s']:g} img/s training {found['model']}, {found['images_per_step']} images per step (p50 "
        f"{found['step_s_p50']:g} s), {found['precision']}, on {where}{mark}\n"
        f"the seed's README: {published} processes ({PUBLISHED_OF}); {what}"
    )


def main(params_file: str, cache: str, backbone: str, folder: str) -> None:
    """Rank 0 leaves the measurement in FOLDER."""
    params = load_params(params_file)

    def work(group: Group) -> None:
        found = measure(params, Path(cache), Path(backbone), group)
        if group.is_main_process:
            (Path(folder) / RESULT).write_text(json.dumps(found))

    run_worker(work, Path(folder), params.run.stop_grace)


if __name__ == "__main__":
    main(*sys.argv[1:])
