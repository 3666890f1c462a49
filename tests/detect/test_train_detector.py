"""m2det.train_detector and evaluate_detector: from a folder of photos to a detector and its metrics, in Python."""

import json
import logging
import os
import shutil
import signal
from functools import partial

import cv2
import numpy as np
import pytest

import m2det
from m2det.detect import training
from m2det.distributed.group import ALONE
from m2det.errors import InputError
from m2det.evaluate.metrics import NAMES, coco_metrics
from m2det.evaluate.rank import detect_split
from m2det.train.trainer import train
from tests.squares import make_material
from tests.training import AfterStep, settings

TINY = {"recipe": "digits", "device": "cpu", "epochs": 2, "run": {"processes": 1}}
TINY |= {"train": {"batch_size": 4, "microbatch": 4, "max_steps": 3}}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with one annotation file in COCO's format, and 14 images."""
    folder = tmp_path_factory.mktemp("photos")
    made = tmp_path_factory.mktemp("made")
    make_material(made)
    for name in ("a.json", "images"):
        (made / name).rename(folder / name)
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return m2det.train_detector(photos, out, **TINY), out


def test_a_folder_of_photos_becomes_a_detector_in_a_file(photos, trained):
    detector, out = trained
    assert detector.names == ("square",)
    found, again = detector(photos / "images/1.jpg", score=0.0), m2det.load(out / "m2det.safetensors", device="cpu")
    assert len(found) and (again(photos / "images/1.jpg", score=0.0).xyxy == found.xyxy).all()
    assert (out / "curves.csv").read_text().startswith("epoch,") and "step 3/3" in (out / "log.txt").read_text()
    assert not any((out / "unfinished").iterdir())


def test_what_is_done_is_not_done_again_and_what_is_changed_is(photos, trained, tmp_path, caplog):
    out = shutil.copytree(trained[1], tmp_path / "out")
    before = (out / "m2det.safetensors").stat().st_mtime_ns
    caplog.set_level(logging.INFO)
    m2det.train_detector(photos, out, **TINY)
    assert (out / "m2det.safetensors").stat().st_mtime_ns == before and "is up to date" in caplog.text
    m2det.train_detector(photos, out, **TINY | {"seed": 1})
    assert (out / "m2det.safetensors").stat().st_mtime_ns > before


@pytest.mark.slow
def test_the_same_call_continues_to_the_same_bytes(photos, tmp_path, monkeypatch):
    out = tmp_path / "undisturbed"
    m2det.train_detector(photos, out, **TINY)
    stop = AfterStep(lambda _: os.kill(os.getpid(), signal.SIGTERM), 2)
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", partial(train, callbacks=stop))
        with pytest.raises(SystemExit):
            m2det.train_detector(photos, tmp_path / "out", **TINY)
    m2det.train_detector(photos, tmp_path / "out", **TINY)
    log = (tmp_path / "out/log.txt").read_text()
    assert "stopped at step 2" in log and "training m2det-tiny from step 2 of 3" in log
    assert (tmp_path / "out/m2det.safetensors").read_bytes() == (out / "m2det.safetensors").read_bytes()


@pytest.mark.slow
def test_a_replaced_photo_is_packed_again(photos, tmp_path):
    copy = tmp_path / "photos"
    (copy / "images").mkdir(parents=True)
    for path in (photos / "a.json", *(photos / "images").iterdir()):
        (copy / path.relative_to(photos)).write_bytes(path.read_bytes())
    hashes = []
    for grey in (0, 255):
        cv2.imwrite(str(copy / "images/1.jpg"), np.full((80, 80, 3), grey, np.uint8))
        m2det.train_detector({"root": str(copy), "val_share": 0.5}, tmp_path / "out", **TINY | {"epochs": 1})
        hashes.append((tmp_path / "out/cache/manifest.json").read_bytes())
    assert hashes[0] != hashes[1]


def test_a_folder_and_its_cache_are_evaluated_as_the_stage_does_it(photos, trained, tmp_path, monkeypatch):
    detector, out = trained
    options = {"score_threshold": 0.02, "nms": "hard", "per_class": 500, "per_image": 0}
    params = settings(workers=0)
    params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update=options)})
    detect_split(params, out / "cache", out / "m2det.safetensors", tmp_path / "results.json", ALONE)
    metrics = coco_metrics(out / "cache/val.json", tmp_path / "results.json")
    assert m2det.evaluate_detector(detector, out / "cache", **options) == metrics
    assert m2det.evaluate_detector(detector, photos, **options) == metrics
    monkeypatch.setattr("m2det.detect.evaluation.coco_metrics", lambda _, results, *__: json.loads(results.read_text()))
    detections = json.loads((tmp_path / "results.json").read_text())
    assert len(detections) > 3 and m2det.evaluate_detector(detector, photos, **options) == detections


def test_a_detector_that_finds_each_object_has_ap_1(photos, trained, monkeypatch):
    def find_all(*arguments):
        split = arguments[2]
        truth = json.loads(split.ground_truth.read_text())["annotations"]
        return [[{key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0} for a in truth]]

    monkeypatch.setattr("m2det.detect.evaluation.coco_results_distributed", find_all)
    metrics = m2det.evaluate_detector(trained[0], photos)
    assert list(metrics) == [*NAMES, "AP/square"]
    assert metrics["AP"] == metrics["AP/square"] == pytest.approx(1) and metrics["APl"] == -1


def test_wrong_arguments_are_one_sentence(photos, trained, tmp_path, monkeypatch):
    detector, out = trained
    calls = {
        r"train_detector: unknown key 'lr'": {"lr": 0.1},
        r"train_detector: train\.lr: ": {"train": {"lr": -1.0}},
        r"train_detector: run: ": {"run": "fast"},
        r"no recipe is called 'mine'; there are coco": {"recipe": "mine"},
    }
    for sentence, changes in calls.items():
        with pytest.raises(InputError, match=sentence):
            m2det.train_detector(photos, tmp_path / "out", **TINY | changes)
    (tmp_path / "empty").mkdir()
    for data, sentence in {"gone": "is no folder; give the one", "empty": "holds no data set that is"}.items():
        with pytest.raises(InputError, match=sentence):
            m2det.train_detector(tmp_path / data, tmp_path / "out", **TINY)
    places = {photos / "a.json": "is no folder; name one", photos / "out": "lies in the data's folder, "}
    for place, sentence in places.items():
        with pytest.raises(InputError, match=sentence):
            m2det.train_detector(photos, place, **TINY)
    with pytest.raises(InputError, match="source 'digits' is for the stages alone; take auto, coco"):
        m2det.train_detector({"source": "digits"}, tmp_path / "out", **TINY)
    with pytest.raises(InputError, match=r"evaluate_detector: evaluate\.nms: "):
        m2det.evaluate_detector(detector, out / "cache", nms="soft")
    monkeypatch.setattr(detector, "names", ("circle",))
    with pytest.raises(InputError, match="the detector knows circle, the data have square"):
        m2det.evaluate_detector(detector, out / "cache")


def test_test_images_are_scored_where_they_have_boxes(photos, trained, tmp_path):
    detector = m2det.load(trained[1] / "m2det.safetensors", device="cpu")
    content = json.loads((photos / "a.json").read_text())
    for name, left_out in (("info.json", ["annotations"]), ("test.json", [])):
        (tmp_path / name).write_text(json.dumps({k: v for k, v in content.items() if k not in left_out}))
    root = shutil.copytree(photos, tmp_path / "root")
    for name in ("info.json", "test.json"):
        (tmp_path / name).rename(root / "images" / name)
        data = {"root": str(root), "train": [{"annotations": "a.json", "images": "images"}]}
        data["test"] = [{"annotations": f"images/{name}", "images": "images"}]
        metrics = m2det.evaluate_detector(detector, data, split="test")
        assert (metrics["AP"] == -1) == (name == "info.json") and "AP/square" in metrics
    with pytest.raises(InputError, match=r"has no split 'test', it has train and val"):
        m2det.evaluate_detector(detector, trained[1] / "cache", split="test")
