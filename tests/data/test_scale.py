"""120,000 images, as many as COCO has: packed, opened in an instant, read by 8 workers in little memory."""

import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from m2det.data.coco import Category, ImageRecord, Split
from m2det.data.packing import finish_cache, write_split
from m2det.data.store import PackedSplit
from tasks.pack import _is_whole
from tests.conftest import ROOT

COUNT = 120_000
EPOCH = """
import multiprocessing, os, sys
from pathlib import Path
from m2det.config import TrainParams
from m2det.data.loader import TrainingOrder, TrainingSamples, training_loader
from m2det.data.store import PackedSplit

def mib(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return (sizes["Pss_Anon"] + sizes["Pss_Shmem"] + sizes["Private_Clean"]) // 1024

split = PackedSplit(sys.argv[1], "train")
odds = TrainParams.model_construct(None, crop_probability=0, expand_probability=0, mirror=True)
seen, most = 0, 0
for step, batch in enumerate(
    training_loader(TrainingSamples(split, 16, 0, odds), TrainingOrder(len(split), 64, 0, len(split) // 64), 8, False)
):
    seen += len(batch.index)
    if step % 200 == 0:
        most = max(most, sum(map(mib, [os.getpid(), *(p.pid for p in multiprocessing.active_children())])))
print(seen, most)
"""


@pytest.mark.slow
def test_coco_s_number_of_images(tmp_path):
    path = tmp_path / "1.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    boxes, one, none = np.array([[2, 2, 20, 20]], np.float32), np.ones(1, np.int16), np.zeros(1, bool)
    records = [ImageRecord(i, f"{i}.jpg", path, 24, 24, boxes, one, none, boxes[:, 3]) for i in range(COUNT)]
    split = Split(records, [Category(1, "thing")], {}, 0, {})
    entry = write_split(tmp_path, "train", split, _is_whole, threads=len(os.sched_getaffinity(0)))
    finish_cache(tmp_path, split.categories, {"train": entry})
    start = time.perf_counter()
    assert len(PackedSplit(tmp_path, "train")) == COUNT
    opened = time.perf_counter() - start
    command = [sys.executable, "-c", EPOCH, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen, mib = map(int, done.stdout.split())
    print(f"opened in {opened * 1e3:.0f} ms; an epoch with 8 workers takes {mib} MiB")
    assert seen == COUNT and opened < 0.5 and mib < 2048
