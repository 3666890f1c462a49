"""Time detection on a packed split: `python benchmarks/evaluation_speed.py [--images 1000] [--workers 0 8]`.

M2Det512-VGG16 with random weights and 80 classes on made images of 640x480; the threshold leaves some hundred
candidates of an image. Images per second of everything between the packed split and the entries of the results file.
"""

from __future__ import annotations

import argparse
import inspect
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from m2det.config import EvaluateParams
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.device import choose_device, device_name, to_device
from m2det.evaluate.inference import coco_results_of_split
from m2det.model import build_model, prior_boxes

DIFFERENT = 16  # images; the others are the same files again


def main(images: int, workers: list[int], batch_size: int) -> None:
    """Print images per second for each number of workers."""
    device = choose_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(Path(folder), images)
        torch.manual_seed(0)
        model = build_model("m2det512-vgg16", 80).eval()
        to_device(model, device)
        threshold = 1.15 / 81  # of random weights, whose scores are nearly equal
        settings = EvaluateParams(
            split="val",
            batch_size=batch_size,
            nms="linear",
            score_threshold=threshold,
            nms_iou=0.3,
            per_class=50,
            per_image=100,
            scorer="auto",
        )
        priors = prior_boxes(model.config)
        new = "workers" in inspect.signature(coco_results_of_split).parameters
        for count in workers:
            for measured in (False, True):  # the first time warms up
                begun = time.perf_counter()
                arguments = (count, range(images if measured else min(images, 4 * batch_size))) if new else ()
                where = priors.to(device) if new else priors
                results = coco_results_of_split(model, where, split, 512, device, settings, *arguments)
                entries = sum(map(len, results))
                seconds = time.perf_counter() - begun
                if not new:
                    break
            rate = f"{images / seconds:.1f} img/s"
            print(f"{device_name(device)}, workers {count}, batch {batch_size}: {rate}, {entries} entries", flush=True)


def make_split(folder: Path, count: int) -> PackedSplit:
    """Return a packed split of smooth made images, 640x480."""
    rng = np.random.default_rng(0)
    for i in range(DIFFERENT):
        picture = cv2.resize(rng.integers(0, 255, (30, 40, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i}.jpg"), picture)
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(DIFFERENT)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    split = read_split([(folder / "a.json", folder)])
    split.records[:] = [split.records[i % DIFFERENT] for i in range(count)]
    (folder / "cache").mkdir()
    entry = write_split(folder / "cache", "val", split, verify="header")
    finish_cache(folder / "cache", split.categories, {"val": entry})
    return PackedSplit(folder / "cache", "val")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    main(arguments.images, arguments.workers, arguments.batch_size)
