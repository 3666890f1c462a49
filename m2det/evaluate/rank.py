"""One of several processes that detect together, as torchrun starts them: PARAMS CACHE MODEL OUT FOLDER."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from m2det.config import Params, load_params
from m2det.data.packed.reader import PackedSplit
from m2det.device import choose_device, set_determinism, to_device
from m2det.distributed.group import Group
from m2det.distributed.launch import run_worker
from m2det.distributed.threads import load_average
from m2det.evaluate.crowding import describe_crowding
from m2det.evaluate.inference import coco_results_distributed
from m2det.evaluate.speed import write_speed
from m2det.files.whole import write_whole
from m2det.model import prior_boxes
from m2det.model.model_file import load_trained
from m2det.progress import NO_PROGRESS, ImageProgress


def detect_split(params: Params, cache: Path, model_file: Path, out: Path, group: Group) -> None:
    """Write the COCO results of a split, every image once and in order, whatever the number of processes.

    Args:
        params: for run.device, run.workers and the section `evaluate`, whose `split` it is.
        cache: the packed cache with this split.
        model_file: the trained model.
        out: the JSON file to write; its speed is written beside it.
        group: every process of it calls this, and rank 0 writes.
    """
    set_determinism(params.run.deterministic)
    device = group.local_device(choose_device(params.run.device))
    group.init(device)
    model, _ = load_trained(model_file)
    to_device(model, device)
    split, priors = PackedSplit(cache, params.evaluate.split), prior_boxes(model.config).to(device)
    load, start = load_average(), time.perf_counter()
    with ImageProgress("detecting", len(split), stage="evaluate") if group.is_main_process else NO_PROGRESS as progress:
        images = coco_results_distributed(
            model, priors, split, model.config.size, device, params.evaluate, params.run.workers, group, progress
        )
    seconds = time.perf_counter() - start
    results: list[dict[str, Any]] = [entry for image in images for entry in image]
    if group.is_main_process:
        write_whole(out, json.dumps(results, separators=(",", ":")) + "\n")
        write_speed(out.parent, model, len(split), seconds, params.evaluate, device, group.size, load)
        objects = sum(len(split.annotations(index).boxes) for index in range(len(split)))
        warnings = describe_crowding(images, objects, len(split.classes), params.evaluate)
        print(f"{len(results)} detections on {len(split)} images", *warnings, sep="\n", flush=True)


def main(params_file: str, cache: str, model_file: str, out: str, folder: str) -> None:
    """Detect in this process; FOLDER is shared by all of them."""
    params = load_params(params_file)

    def work(group: Group) -> None:
        detect_split(params, Path(cache), Path(model_file), Path(out), group)

    run_worker(work, Path(folder), params.run.stop_grace)


if __name__ == "__main__":
    main(*sys.argv[1:])
