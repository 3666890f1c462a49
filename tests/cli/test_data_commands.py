"""`m2det data`: what a user learns of a data set before, and of a cache after."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from m2det.boxes import cxcywh_to_xyxy, iou_xyxy
from m2det.cli.main import main
from m2det.data.packed.reader import REPACK, key_of
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.data.statistics import count_matches
from m2det.model import prior_boxes
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with params.yaml, twenty pictures of 100x80 px, and their cache; the first has no box."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "images").mkdir()
    images, objects = [], []
    for i in range(20):
        picture = np.random.default_rng(i).integers(0, 255, (80, 100, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"images/{i}.jpg"), picture)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80})
        for n in range(min(i, 2)):
            box = [10.0, 10.0, 30.0, 30.0 + 20 * n]
            objects.append({"image_id": i, "category_id": 3 + n, "bbox": box, "area": box[2] * box[3]})
    objects += [
        {"image_id": 1, "category_id": 3, "bbox": [200, 0, 10, 10]},
        {"image_id": 2, "category_id": 3, "bbox": [90, 70, 20, 20]},
        {"image_id": 3, "category_id": 3, "bbox": [0, 0, 90, 70], "iscrowd": 1},
    ]
    names = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}, {"id": 5, "name": "unicorn"}]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": objects, "categories": names}))
    cache = tmp_path / "data/cache"
    cache.mkdir(parents=True)
    split = read_split([(tmp_path / "a.json", tmp_path / "images")])
    finish_cache(
        cache, split.categories, {name: write_split(cache, name, split, "decode") for name in ("train", "val")}
    )
    return tmp_path


@pytest.mark.usefixtures("project")
def test_check_tells_what_training_would_get(capsys):
    assert main(["data", "check", "--annotations", "a.json", "--images", "images", "--out", "sheet.png"]) == 0
    out = capsys.readouterr().out
    for line in (
        "a.json: 20 images, 38 boxes of 3 classes",
        "images     100 wide, 80 px high; 1 without a box",
        "3 at most; 1 crowds",
        "dropped    1 outside the image; 1 reach over an edge and are clipped",
        "by size    53% small, 47% medium, 0% large",
        "by class   cat 20, dog 18, unicorn 0\n",
    ):
        assert line in out
    [fit] = re.findall(r"^fits: (\S+),", out, re.M)
    assert fit.startswith("m2det") and re.search(rf"^{fit} +[\d,]+ .* [\d.]+% +[\d.]+$", out, re.M)
    sheet = cv2.imread("sheet.png")
    assert sheet.shape[1] > 1000 and (sheet == (80, 200, 60)).all(-1).sum() > 1000, "boxes are drawn"


def test_check_of_what_params_yaml_names(project, capsys):
    assert main(["data", "check"]) == 2
    assert "data/coco/manifest.json is missing" in capsys.readouterr().out
    assert main(["data", "check", "--annotations", "a.json"]) == 2
    assert "belong together" in capsys.readouterr().out
    (project / "images/7.jpg").unlink()
    (project / "images/8.jpg").write_bytes(b"\xff\xd8 no picture")
    (project / "images/9.jpg").write_bytes((project / "images/9.jpg").read_bytes()[:-800])
    cv2.imwrite(str(project / "images/10.jpg"), np.zeros((80, 90, 3), np.uint8))
    assert main(["data", "check", "--annotations", "a.json", "--images", "images"]) == 2
    shown = capsys.readouterr().out
    assert "1 of 20 images do not exist" in shown and "3 of 19 images that were read cannot be used" in shown
    for sentence in ("7.jpg", "8.jpg) is truncated", "9.jpg) is truncated", "10.jpg) is 90x80 px, its annotation says"):
        assert f"images/{sentence}" in shown
    assert "picture: annotated.png" in shown, "of the others"


def test_matches_are_counted_as_by_hand():
    boxes = np.array([[0.1, 0.2, 0.5, 0.9], [0.3, 0.3, 0.31, 0.31], [0.3, 0.3, 0.7, 0.7]], np.float32)
    priors = prior_boxes("m2det-tiny").numpy().astype(float)
    counted = []
    for box in boxes.astype(float):
        low = np.maximum(box[:2], priors[:, :2] - priors[:, 2:] / 2)
        high = np.minimum(box[2:], priors[:, :2] + priors[:, 2:] / 2)
        shared = (high - low).clip(0).prod(1)
        union = (box[2:] - box[:2]).prod() + priors[:, 2:].prod(1) - shared
        counted.append(int((shared / union >= 0.5).sum()))
    assert counted[0] > 0 and counted[1] == 0 and counted[2] > 1
    assert count_matches(boxes, prior_boxes("m2det-tiny")).tolist() == counted


def test_matches_are_those_of_all_pairs():
    """Also at the borders of what is compared at once, and of areas that can match."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.normal(-2, 1, (101, 2))).clip(0.01, 0.9).astype(np.float32)
    low = rng.random((101, 2), np.float32) * (1 - sides)
    priors = prior_boxes("m2det320-vgg16")
    exact = cxcywh_to_xyxy(priors[[0, 1, 2, 40, 500, 12809]]).numpy()
    halves = exact * np.array([1, 1, 1, 0.5], np.float32) + exact[:, [1]] * np.array([0, 0, 0, 0.5], np.float32)
    boxes = np.concatenate([low, low + sides], 1)
    for each in (boxes, np.concatenate([boxes, exact, halves]), boxes[:0]):
        overlaps = iou_xyxy(torch.from_numpy(each), cxcywh_to_xyxy(priors))
        assert count_matches(each, priors).tolist() == (overlaps >= 0.5).sum(1).tolist()


def test_verify_names_every_bad_record(project, capsys):
    assert main(["data", "verify"]) == 0
    assert "every record is as it was packed" in capsys.readouterr().out
    lmdb = project / "data/cache/train.lmdb"
    content = bytearray(lmdb.read_bytes())
    for i in (4, 9):
        at = content.find((project / f"images/{i}.jpg").read_bytes()[-200:])
        content[at : at + 8] = bytes(8)
    lmdb.write_bytes(content)
    with (project / "data/cache/val.lmdb").open("r+b") as file:
        file.truncate(9000)
    assert main(["data", "verify"]) == 1
    shown = capsys.readouterr()
    bad = shown.out.strip().splitlines()
    assert len(bad) == 3 and all(each in " ".join(bad) for each in ("image 4.jpg", "image 9.jpg", "val.lmdb"))
    assert shown.err.endswith("error: data/cache has 3 faults, named above with what to do\n")


@pytest.mark.usefixtures("project", "forkserver")
def test_verify_by_processes_that_are_no_copies(capsys):
    assert main(["data", "verify"]) == 0
    assert "every record is as it was packed" in capsys.readouterr().out


def test_verify_tells_what_was_packed_so_from_what_was_damaged_since(project, capsys):
    """A cache packed by headers may hold pictures that do not decode: to pack it again would not help."""
    whole = (project / "images/5.jpg").read_bytes()
    (project / "images/5.jpg").write_bytes(whole[:-900] + whole[-2:])
    split = read_split([(project / "a.json", project / "images")])
    cache = project / "data/cache"
    names = ("train", "val")
    finish_cache(cache, split.categories, {n: write_split(fresh(cache, n), n, split, "header") for n in names})
    assert main(["data", "verify"]) == 1
    for line in capsys.readouterr().out.strip().splitlines():
        assert re.search(r"image 5 \(5\.jpg\) is damaged .*; replace it, and run `dvc repro -f data`$", line)


def fresh(cache, name):
    for path in cache.glob(f"{name}.*"):
        path.unlink()
    return cache


@pytest.mark.usefixtures("quiet_signals")
def test_verify_goes_on_after_damage_that_ends_a_process(project, capsys, monkeypatch):
    """Two records whose length in LMDB's tree reaches beyond the file: reading them is SIGBUS. One process has both."""
    monkeypatch.setattr("m2det.distributed.lifetime.usable_cores", lambda: 1)
    lmdb = project / "data/cache/train.lmdb"
    content = bytearray(lmdb.read_bytes())
    for i in (3, 11):
        key = content.find(key_of(i))  # in its node, behind the length's two halves, flags and the key's length
        content[key - 8 : key - 4] = bytes([0, 0, 0, 1])  # 16 MiB, in an order of LMDB's own
    lmdb.write_bytes(content)
    assert main(["data", "verify"]) == 1
    bad = sorted(capsys.readouterr().out.strip().splitlines())
    assert [re.findall(r"image (\d+) \(\1\.jpg\)", line) for line in bad] == [["11"], ["3"]]
    assert all(re.search(r"ended a process \(signal SIG(BUS|SEGV)\)", line) for line in bad)


@pytest.mark.parametrize("name", ["train.arrow", "val.json"])
def test_verify_names_damaged_annotations(project, capsys, name):
    path = project / "data/cache" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(["data", "verify"]) == 1
    assert f"data/cache/{name} is missing or damaged; {REPACK}" in capsys.readouterr().out
    (project / "data/cache/manifest.json").write_text("{")
    assert main(["data", "verify"]) == 1
    assert "data/cache/manifest.json is damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_a_truncated_lmdb_is_never_a_signal():
    """At any length, before or after it was opened, reading ends in a sentence."""
    program = """
import os, sys
from m2det.data.packed.reader import REPACK, PackedSplit
from m2det.errors import InputError
whole = os.path.getsize("data/cache/train.lmdb")
content = open("data/cache/train.lmdb", "rb").read()
split = PackedSplit("data/cache", "train")
split.record(0)
for length in [*range(0, whole, 3001), 4096, 8192, whole - 4096, whole - 1, whole + 4096]:
    with open("data/cache/train.lmdb", "wb") as file:
        file.write(content[:length]); file.truncate(length)
    for read in (lambda: PackedSplit("data/cache", "train"), lambda: [split.record(i) for i in range(20)]):
        try:
            read()
        except InputError as error:
            assert f"it has {length} bytes, not {whole}; {REPACK}" in str(error), error
        else:
            sys.exit(f"{length} bytes were read")
print("done")
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(("split", "words"), [("train", ["--epoch", "3"]), ("val", [])])
def test_show_draws_what_the_network_sees(project, capsys, split, words):
    assert main(["data", "show", "--split", split, "--out", "a.png", *words]) == 0
    assert main(["data", "show", "--split", split, "--out", "b.png", *words]) == 0
    assert "picture: a.png" in capsys.readouterr().out
    sheet = cv2.imread("a.png")
    assert (sheet == (80, 200, 60)).all(-1).sum() > 1000
    assert (project / "a.png").read_bytes() == (project / "b.png").read_bytes()
    if split == "train":
        main(["data", "show", "--out", "c.png", "--epoch", "4"])
        assert (project / "a.png").read_bytes() != (project / "c.png").read_bytes()


VERIFY = """
import sys, time
from pathlib import Path
from m2det.data.packed import verify
verify._verdict = lambda *_: time.sleep(60)
list(verify.bad_records(Path("data/cache"), 2))
"""


def test_a_stopped_process_of_verify_does_not_outlive_it(project):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    verify = subprocess.Popen([sys.executable, "-c", VERIFY], cwd=project, env=environment, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{verify.pid}/task/{verify.pid}/children")
    while len(pids := children.read_text().split()) < 2:
        assert verify.poll() is None
        time.sleep(0.02)
    time.sleep(1)  # for the second to have begun
    os.kill(int(pids[1]), signal.SIGSTOP)
    verify.kill()
    verify.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/fd/0").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
