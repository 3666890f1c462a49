"""A folder of one's own, in each format, from `data.source: auto` to metrics."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from ruamel.yaml import YAML

from m2det.data.packed.reader import PackedSplit
from tests.conftest import ROOT
from tests.pipeline.own_photos import IMAGES, OBJECTS, VALIDATION, photos, write_coco, write_voc, write_yolo

WAYS = {
    "yolo": (write_yolo, "holds YOLO: data.yaml names 2 classes; train has 32 images, val has 8 images"),
    "voc": (write_voc, "holds Pascal VOC: train has 40 XML files, by their folders, without lists"),
    "coco": (write_coco, "holds COCO: train is train/_annotations.coco.json with the images in train, val is valid/"),
}
EPOCHS = {"yolo": 3, "voc": 40, "coco": 40}  # the one in CI only has to end in metrics


@pytest.mark.parametrize(
    "way",
    [pytest.param("yolo", marks=pytest.mark.slow), *(pytest.param(w, marks=pytest.mark.long) for w in ("voc", "coco"))],
)
def test_a_folder_trains_from_auto_to_metrics(tmp_path, way):
    write, saw = WAYS[way]
    root, folder = tmp_path / "root", tmp_path / "project"
    write(root)
    folder.mkdir()
    for name in ("m2det", "tasks", "flows", "dvc.yaml", "build"):
        (folder / name).symlink_to(ROOT / name)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["epochs"] = EPOCHS[way]
    params["data"] |= {"source": "auto", "root": str(root)}
    params["run"] |= {"device": "cpu", "processes": 1}
    params["train"] |= {
        "batch_size": 8,
        "microbatch": 8,
        "lr_batch_size": 8,
        "hflip": True,
        "evaluate_every": EPOCHS[way],
    }
    params["train"] |= {"lr": 0.03, "ema_decay": 0.98}
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    printed = {}
    for stage in ("data", "pack", "weights", "train", "evaluate"):
        command = [sys.executable, "-m", f"flows.{stage}"]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        printed[stage] = done.stdout
    assert f"{root} {saw}" in printed["data"], printed["data"]
    manifest = json.loads((folder / "data/cache/manifest.json").read_text())
    assert sorted(manifest["classes"]) == sorted(OBJECTS)
    assert {k: v["images"] for k, v in manifest["splits"].items()} == {"train": IMAGES - VALIDATION, "val": VALIDATION}
    assert sum(v["boxes"] for v in manifest["splits"].values()) == IMAGES - IMAGES // 10
    assert not any(sum(v["dropped"].values()) + v["clipped"] for v in manifest["splits"].values())
    assert boxes_by_number(folder / "data/cache") == {
        number: [(name, x1, y1, x2 - 1, y2 - 1) for name, x1, y1, x2, y2 in photo.boxes]
        for number, photo in enumerate(photos())
    }
    metrics = json.loads((folder / "results/metrics.json").read_text())
    assert metrics["AP50"] > (0.5 if EPOCHS[way] > 10 else -1), metrics
    voc = json.loads((folder / "results/voc.json").read_text())
    assert bool(voc) == (way == "voc")
    if voc:
        assert f"VOC's mAP {voc['mAP_11_points']:.4f} by 11 points" in printed["evaluate"]
        assert abs(voc["mAP_all_points"] - metrics["AP50"]) < 0.1, "the same rule at IoU 0.5, but for COCO's 101 points"


def boxes_by_number(cache):
    """The packed boxes of each image, by the number in its name: class, and xyxy with the last pixel inside."""
    found = {}
    for name in ("train", "val"):
        split = PackedSplit(cache, name)
        for index, file in enumerate(split.file_names):
            objects = split.annotations(index)
            rows = zip(objects.labels.tolist(), np.rint(objects.boxes).tolist(), strict=True)
            assert np.abs(objects.boxes - np.rint(objects.boxes)).max(initial=0) < 1e-3
            number = int(re.search(r"(\d+)\.\w+$", file)[1])
            found[number] = [(split.classes[label - 1], *map(int, box)) for label, box in rows]
    return found
