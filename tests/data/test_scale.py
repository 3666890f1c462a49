"""Many images, as many as COCO has in make test-slow: packed by DVC, and read by 8 workers in little memory.

`pytest -s -m long tests/data/test_scale.py` prints the seconds and the memory (docs/benchmarks/packing.md).
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from m2det.data.packed.reader import PackedSplit
from tests.conftest import ROOT
from tests.pipeline.conftest import make_clone

COCO = 120_000
EPOCH = """
import multiprocessing, os, sys
from pathlib import Path
from m2det.config import TrainParams
from m2det.data import PackedSplit, TrainingBatchSampler, TrainingDataset, training_loader

def mib(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return (sizes["Pss_Anon"] + sizes["Pss_Shmem"] + sizes["Private_Clean"]) // 1024

split, (size, images, steps) = PackedSplit(sys.argv[1], "train"), map(int, sys.argv[2:])
odds = TrainParams.model_construct(None, crop_probability=0, expand_probability=0, hflip=True)
samples, order = TrainingDataset(split, size, 0, odds), TrainingBatchSampler(len(split), images, 0, steps)
seen, most = 0, 0
for step, batch in enumerate(training_loader(samples, order, 8, False)):
    seen += len(batch.index)
    if step % (steps // 10) == 0:
        most = max(most, sum(map(mib, [os.getpid(), *(p.pid for p in multiprocessing.active_children())])))
print(seen, most)
"""


def make_images(folder: Path, name: str, count: int) -> None:
    """Write one picture under many names, as links: 50,000 to a file, since a file system allows few more."""
    (folder / name).mkdir()
    picture = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))[1].tobytes()
    images, annotations = [], []
    for i in range(count):
        images.append({"id": i, "file_name": f"{i:012d}.jpg", "width": 24, "height": 24})
        annotations.append({"image_id": i, "category_id": 1, "bbox": [2, 2, 19, 19]})
        path = folder / name / images[-1]["file_name"]
        if i % 50_000 == 0:
            first = path
            path.write_bytes(picture)
        else:
            os.link(first, path)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "count", [pytest.param(COCO // 5, marks=pytest.mark.slow), pytest.param(COCO, marks=pytest.mark.long)]
)
def test_many_images_are_packed_and_read_in_little_memory(tmp_path, count):
    for name, images in (("train", count), ("val", 100)):
        make_images(tmp_path, name, images)
    clone = make_clone(tmp_path / "clone")
    changes = {"  source: ": "  source: coco", "  root: ": f"  root: {tmp_path}"}
    clone.edit(changes | {f"  {n}: []": f"  {n}: [{{annotations: {n}.json, images: {n}}}]" for n in ("train", "val")})
    assert "images checked by markers and size alone" in clone.run("dvc", "repro", "pack").stdout
    cache = clone.folder / "data/cache"
    splits = json.loads((cache / "manifest.json").read_text())["splits"]
    assert [splits[name]["verified"] for name in ("train", "val")] == ["header", "decode"]

    start = time.perf_counter()
    assert "'pack' didn't change" in clone.run("dvc", "repro", "pack").stdout
    nothing_to_do = time.perf_counter() - start

    start = time.perf_counter()
    assert len(PackedSplit(cache, "train")) == count
    opened = time.perf_counter() - start

    print(f"nothing to do: {nothing_to_do:.1f} s; opened in {opened * 1e3:.0f} ms")
    # a whole epoch of small samples, and as many of 512 px as use every buffer
    for size, images, steps in ((16, 64, count // 64), (512, 16, 100)):
        command = [sys.executable, "-c", EPOCH, *map(str, (cache, size, images, steps))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        seen, mib = map(int, done.stdout.split())
        print(f"{seen} samples of {size} px by 8 workers: {mib} MiB")
        assert seen == images * steps and mib < 2048
    shutil.rmtree(tmp_path)
