"""Training resumes bit for bit, learns, stops on a loss that is not finite, and can be asked to stop."""

import csv
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from m2det.config import Params, load_params
from m2det.data.coco import read_split
from m2det.data.loader import TrainingOrder
from m2det.data.store import finish_cache, write_split
from m2det.errors import InputError
from m2det.model.pretrained import random_backbone
from m2det.train import loop
from m2det.train.log import write_curves
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A cache of 14 images with one bright square each, and a backbone: (cache, backbone)."""
    import json

    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    images, annotations = [], []
    for i in range(1, 15):
        picture = rng.integers(0, 60, (80, 80, 3), dtype=np.uint8)
        x, y, side = (int(v) for v in rng.integers((0, 0, 25), (40, 40, 40)))
        picture[y : y + side, x : x + side] = 220
        cv2.imwrite(str(folder / f"images/{i}.jpg"), picture)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 80})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [x, y, side, side], "area": side**2})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / "a.json").write_text(json.dumps(content))
    cache = folder / "cache"
    cache.mkdir()
    split = read_split([(folder / "a.json", folder / "images")])
    entries = {name: write_split(cache, name, split, lambda *_: None) for name in ("train", "val")}
    finish_cache(cache, split.categories, entries)
    save_file(random_backbone("m2det-tiny", 0).state_dict(), str(folder / "backbone.safetensors"))
    return cache, folder / "backbone.safetensors"


def settings(**changes) -> Params:
    base = load_params(ROOT / "params.yaml").model_dump()
    base |= {"epochs": 3, "device": "cpu"}
    base["train"] |= {"batch_size": 4, "workers": 0, "evaluate_every": 2, "log_every": 1, "max_steps": 0}
    for key, value in changes.items():
        target = base["train"] if key in base["train"] else base
        target[key] = value
    return Params.model_validate(base)


def run(material, folder, params):
    return loop.train(params, *material, folder / "state", folder / "log.txt")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(material, tmp_path, monkeypatch, workers):
    whole = run(material, tmp_path / "whole", settings())
    note = loop.Run.note

    def stop_after_5(self, losses):
        note(self, losses)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Run, "note", stop_after_5)
    with pytest.raises(SystemExit) as stopped:
        run(material, tmp_path / "parts", settings(workers=workers))
    assert stopped.value.code == 143
    monkeypatch.setattr(loop.Run, "note", note)
    resumed = run(material, tmp_path / "parts", settings(workers=workers))
    assert resumed.steps == whole.steps == 9
    assert resumed.rows == whole.rows
    for (name, a), (_, b) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_it_learns(material, tmp_path):
    outcome = run(material, tmp_path, settings(epochs=20, lr=0.01, crop_probability=0.0, expand_probability=0.0))
    first, last = outcome.rows[0], outcome.rows[-1]
    # not the confidence: its negatives are mined anew at each step, always the hardest
    assert last["loss_loc"] < 0.6 * first["loss_loc"]
    assert last["AP50"] > 0.2


def test_best_keeps_the_best_epoch(material, tmp_path):
    outcome = run(material, tmp_path, settings(epochs=4, keep="best"))
    best = max((row for row in outcome.rows if "AP" in row), key=lambda row: row["AP"])
    assert outcome.kept_epoch == best["epoch"]


def test_a_loss_that_is_not_finite_stops_with_the_images(material, tmp_path, monkeypatch):
    order = TrainingOrder(14, 4, settings().seed, 9)
    third = {1 + index for _, index in order.batch(2)}
    forward = loop.MultiBoxLoss.forward
    calls = iter(range(100))

    def poisoned(self, *arguments):
        losses = forward(self, *arguments)
        return {**losses, "loc": losses["loc"] * (float("nan") if next(calls) == 2 else 1)}

    monkeypatch.setattr(loop.MultiBoxLoss, "forward", poisoned)
    with pytest.raises(InputError) as error:
        run(material, tmp_path, settings())
    assert "step 3 is not finite" in str(error.value)
    assert {int(i) for i in str(error.value).split("[")[1].split("]")[0].split(",")} == third


def test_impossible_settings_are_refused(material, tmp_path):
    with pytest.raises(InputError, match="there are only 14 training images"):
        run(material, tmp_path, settings(batch_size=15))
    with pytest.raises(InputError, match="this version trains with 1"):
        run(material, tmp_path, settings(processes=8))


def test_every_image_once_an_epoch_and_another_order_in_the_next():
    order = TrainingOrder(12, 4, 1, 6)
    steps = list(order)
    first, second = ([index for batch in part for _, index in batch] for part in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(12)) and first != second
    assert list(TrainingOrder(12, 4, 1, 6, start=4)) == steps[4:]


def test_curves_have_their_columns(tmp_path):
    write_curves(tmp_path / "c.csv", [{"epoch": 1, "step": 2, "lr": 0.1, "loss_loc": 1.0, "loss_conf": 2.0}])
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["epoch", "step", "lr", "loss_loc", "loss_conf", "AP", "AP50"],
        ["1", "2", "0.1", "1.0", "2.0", "", ""],
    ]


@pytest.mark.slow
def test_a_killed_process_resumes(material, tmp_path):
    """SIGKILL anywhere leaves a checkpoint that loads."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.train.test_loop import settings; from m2det.train import loop\n"
        "cache, backbone, folder = map(Path, sys.argv[1:])\n"
        "out = loop.train(settings(epochs=6), cache, backbone, folder / 'state', folder / 'log.txt')\n"
        "print('finished', out.steps)\n"
    )
    command = [sys.executable, "-c", code, *map(str, material), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not (tmp_path / "state/checkpoint.pt").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "finished 18" in done.stdout
