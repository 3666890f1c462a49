"""`evaluate.split: test`: detections on images that no training sees, through the real stages."""

import json
import shutil

import pytest

import tasks.common
import tasks.inputs
from m2det.data.packed.reader import PackedSplit
from m2det.evaluate.record import compare_record
from tasks.common import CACHE, MODEL, RESULTS, TEST
from tasks.data import data
from tasks.evaluate import detect, draw, score
from tasks.pack import pack
from tests.data.project import Project, write_annotations
from tests.tiny_model import write_tiny_model

CLASSES = tuple(str(digit) for digit in range(10))
INFO = "image_info_test-dev2017.json"
NAMED = [{"annotations": INFO, "images": "test2017"}]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A data set of 10 classes, and two test images of COCO's large ids without annotations; a model beside it."""
    made = Project(tmp_path)
    made.classes(*CLASSES)
    (made.root / "test2017").mkdir()
    for name, source in (("000000000001.jpg", "b.jpg"), ("000000581000.jpg", "a.jpg")):
        shutil.copy(made.images / source, made.root / "test2017" / name)
    write_annotations(made.root / INFO, ["000000581000.jpg", "000000000001.jpg"], CLASSES)
    content = json.loads((made.root / INFO).read_text())
    del content["annotations"]
    for image, image_id in zip(content["images"], (581000, 1), strict=True):
        image["id"] = image_id
    for category in content["categories"]:
        category["id"] += 50  # names decide: the results have the ids of training
    (made.root / INFO).write_text(json.dumps(content))
    for folder in ("models", "results", "build"):
        (made.folder / folder).mkdir()
    write_tiny_model(made.folder / "models").rename(made.folder / MODEL)
    (made.folder / "results/curves.csv").write_text("epoch,loss_loc,loss_conf,AP,AP50\n1,2.0,3.0,0.5,0.7\n")
    monkeypatch.chdir(made.folder)
    return made


def run(project, *stages, split="val", **settings):
    project.set(**{"source": "coco"} | settings)
    text = (project.folder / "params.yaml").read_text()
    (project.folder / "params.yaml").write_text(text.replace("  split: val ", f"  split: {split} ", 1))
    for cached in (tasks.common.params, tasks.inputs.inputs_of):
        cached.cache_clear()
    for stage in stages:
        stage()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_test_images_change_nothing_that_training_reads(project):
    run(project, data, pack)
    before = contents(CACHE)
    assert json.loads((TEST / "manifest.json").read_text())["splits"] == {}
    run(project, data, pack, test=NAMED)
    assert contents(CACHE) == before
    split = PackedSplit(TEST, "test")
    assert split.image_ids.tolist() == [1, 581000] and split.classes == list(CLASSES)
    assert split.category_ids == list(range(1, 11)) and not json.loads(split.ground_truth.read_text())["annotations"]


@pytest.mark.slow
def test_the_submission_has_cocos_ids_and_no_score_is_made_up(project, capsys):
    run(project, data, pack, detect, score, draw, split="test", test=NAMED)
    entries = json.loads((RESULTS / "detections.json").read_text())
    assert {entry["image_id"] for entry in entries} == {1, 581000}
    assert {entry["category_id"] for entry in entries} <= set(range(1, 11))
    assert all(set(entry) == {"image_id", "category_id", "bbox", "score"} for entry in entries)
    assert set(json.loads((RESULTS / "metrics.json").read_text()).values()) == {-1.0}
    page = (RESULTS / "report.html").read_text()
    assert "2 test images" in page and "no score is known" in page and "Why it fails" not in page
    for plot in ("detections", "error_kinds", "labels", "thresholds"):  # those that dvc.yaml lists
        assert (RESULTS / f"pictures/{plot}.png").stat().st_size
    output = capsys.readouterr().out
    assert "-1, not defined: no image has an annotated box" in output and "results is of test images now" in output
    assert compare_record(RESULTS, MODEL, CACHE) == (
        True,
        "results/metrics.json is of this model, on test images, scored by hotcoco",
    )


@pytest.mark.slow
def test_annotated_test_images_are_scored(project):
    write_annotations(project.root / INFO, ["000000581000.jpg", "000000000001.jpg"], CLASSES)
    run(project, data, pack, detect, score, split="test", test=NAMED)
    metrics = json.loads((RESULTS / "metrics.json").read_text())
    assert 0 <= metrics["AP"] <= 1 and metrics["APl"] == -1
    assert json.loads((RESULTS / "evaluation.json").read_text())["split"] == "test"
