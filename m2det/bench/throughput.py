"""Images per second of a whole training, with its loader, as the ModelZoo baseline measures it.

As a module, one of several processes that measure together, as torchrun starts them: PARAMS CACHE BACKBONE FOLDER.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from m2det.config import Params, load_params
from m2det.device import choose_device, device_name, set_determinism, synchronize
from m2det.distributed.group import Group
from m2det.distributed.launch import run_worker
from m2det.distributed.threads import load_average
from m2det.train.build import build_training
from m2det.train.diagnose import diagnose_nonfinite
from m2det.train.loss_monitor import LossMonitor
from m2det.train.optim import set_lr
from m2det.train.prefetch import gc_disabled
from m2det.train.schedule import WARMUP_START_LR
from m2det.train.trainer import step_batches, train_step

RESULT = "performance.json"  # in FOLDER
PUBLISHED = {1: 4.638, 8: 60.997}  # processes -> img/s (README of the ModelZoo baseline)
PUBLISHED_SETUP = "m2det512-vgg16, 16 images per process, O1, on Ascend 910 NPUs"


def measure(params: Params, cache: Path, backbone: Path, group: Group) -> dict[str, Any]:
    """Train benchmark.warmup + benchmark.steps steps, time the latter, and forget the weights.

    Args:
        params: of the training.
        cache: the packed cache.
        backbone: pretrained weights.
        group: every process of it calls this.

    Returns:
        The content of results/performance.json: img_per_s from the mean step, as in the ModelZoo baseline, and
        step_s_p50, the median step, which a few slow steps do not change; load_average, the machine's of the minute
        before (None where the platform has none), which says whether other processes ran.
    """
    load_before = load_average()
    settings = params.benchmark
    steps = settings.warmup + settings.steps
    train = params.train.model_copy(update={"max_steps": steps})
    params = params.model_copy(update={"epochs": steps, "train": train})  # an epoch has one step at least
    set_determinism(params.run.deterministic)
    device = group.local_device(choose_device(params.run.device))
    group.init(device)
    parts, data = build_training(params, cache, backbone, device, group)
    monitor = LossMonitor(group, device, partial(diagnose_nonfinite, parts, data))
    set_lr(parts.optimizer, WARMUP_START_LR)
    ends = []
    with gc_disabled():
        for step, batches in enumerate(step_batches(data, params.run.workers, device)):
            train_step(parts, monitor, step, batches)
            if step + 1 in (settings.warmup, steps):
                synchronize(device)
            if step + 1 >= settings.warmup:
                ends.append(time.perf_counter())
        monitor.mean()  # raises where a loss was not finite, which makes the speed meaningless
    per_second = settings.steps * data.order.batch_size / (ends[-1] - ends[0])
    cost = parts.cost()
    return {
        "img_per_s": round(per_second, 3),
        "step_s_p50": round(statistics.median(b - a for a, b in itertools.pairwise(ends)), 4),
        "tflop_per_s": round(cost.flops * per_second / 1e12, 4),
        "mfu": round(cost.flops * per_second / cost.peak, 4) if cost.peak else None,
        "processes": group.size,
        "images_per_step": data.order.batch_size,
        "model": params.model.name,
        "objective": params.train.objective,
        "precision": str(parts.precision.dtype)[6:],
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "load_average": None if load_before is None else round(load_before, 2),
        "torch": str(torch.__version__),
    }


def compare(measured: dict[str, Any]) -> str:
    """Return three lines: what was measured on which device, beside what, and what the ModelZoo baseline published."""
    published = ", ".join(f"{rate} img/s with {processes}" for processes, rate in PUBLISHED.items())
    count = measured["processes"]
    name = measured["device_name"]
    devices = f"{name} in {count} processes" if measured["device"] == "cpu" else f"{count} x {name}"
    devices = devices if count > 1 else name
    mark = "" if measured["device"] == "npu" else f" ({measured['device']}: NOT an NPU)"
    setup = measured["model"], measured["objective"], measured["images_per_step"]
    same = setup == ("m2det512-vgg16", "multibox", 16 * count)
    load = measured["load_average"]
    before = "of the machine unknown" if load is None else f"of the machine {load:g} in the minute before"
    this = f"{measured['model']} with {measured['objective']}"
    verdict = "the same model, objective and batch" if same else f"not comparable: this is {this}"
    return (
        f"{measured['img_per_s']:g} img/s training {measured['model']}, {measured['images_per_step']} images per step "
        f"(p50 {measured['step_s_p50']:g} s), {measured['precision']}, on {devices}{mark}\n"
        f"load average {before}, threads of torch per process: {measured['threads']}\n"
        f"the ModelZoo baseline's README: {published} processes ({PUBLISHED_SETUP}); {verdict}"
    )


def main(params_file: str, cache: str, backbone: str, folder: str) -> None:
    """Measure; rank 0 leaves the result in FOLDER."""
    params = load_params(params_file)

    def work(group: Group) -> None:
        measured = measure(params, Path(cache), Path(backbone), group)
        if group.is_main_process:
            (Path(folder) / RESULT).write_text(json.dumps(measured))

    run_worker(work, Path(folder), params.run.stop_grace)


if __name__ == "__main__":
    main(*sys.argv[1:])
