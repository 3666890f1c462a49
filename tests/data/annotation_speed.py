"""Reading annotations of COCO 2014's size: `python -m tests.data.annotation_speed` (docs/benchmarks/packing.md).

The file is made, with as many images, objects and bytes as COCO's training set of 2017. Each reading is a process
of its own; CPU seconds and the largest memory are printed, too.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES, OBJECTS, CLASSES = 118_287, 860_001, 80
POINTS = 22  # of an outline on average, so that the file has COCO's 450 MB


def write_annotations(path: Path) -> None:
    """Write the annotation file, with numbers as COCO rounds them."""
    rng = np.random.default_rng(0)
    owner = rng.integers(0, IMAGES, OBJECTS)
    boxes = np.round(np.concatenate([rng.random((OBJECTS, 2)) * 400, 2 + rng.random((OBJECTS, 2)) * 200], 1), 2)
    points = rng.integers(2, 2 * POINTS, OBJECTS)
    with path.open("w") as file:
        size = {"width": 640, "height": 640, "license": 3, "date_captured": "2013-11-14 17:02:52"}
        images = [{"id": i, "file_name": f"{i:012d}.jpg", **size} for i in range(1, IMAGES + 1)]
        file.write(f'{{"images": {json.dumps(images)}, "annotations": [')
        for i in range(OBJECTS):
            outline = np.round(rng.random(2 * int(points[i])) * 640, 2).tolist()
            entry = {
                "segmentation": [outline],
                "area": float(boxes[i, 2] * boxes[i, 3] * 0.7),
                "iscrowd": 0,
                "image_id": int(owner[i]) + 1,
                "bbox": boxes[i].tolist(),
                "category_id": i % CLASSES + 1,
                "id": i + 1,
            }
            file.write((", " if i else "") + json.dumps(entry))
        categories = [{"id": i, "name": f"class {i}", "supercategory": "thing"} for i in range(1, CLASSES + 1)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def read(path: Path) -> None:
    from m2det.data.sources.coco import read_split

    start, cpu = time.perf_counter(), time.process_time()
    split = read_split([(path, path.parent)])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    assert len(split.records) == IMAGES and len(split.ground_truth["annotations"]) == OBJECTS
    print(f"{seconds:.1f} s, {cpu:.1f} s of CPU, {memory:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="made here if it does not exist (default: a temporary one)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--read", action="store_true", help="read the file once, in this process")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or Path(folder) / "annotations.json"
        if arguments.read:
            read(path)
            return
        if not path.exists():
            write_annotations(path)
        print(f"{path.stat().st_size / 1e6:.0f} MB, {IMAGES} images, {OBJECTS} objects")
        for _ in range(arguments.rounds):
            subprocess.run([sys.executable, "-m", "tests.data.annotation_speed", "--file", path, "--read"], check=True)


if __name__ == "__main__":
    main()
