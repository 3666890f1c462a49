"""`data.source: auto` recognises a data set by its files, says what it saw, and asks where that is not clear."""

import gzip
import json

import cv2
import numpy as np
import pytest

from m2det.config import DataParams
from m2det.config.schema import defaults
from m2det.data.sources.coco import read_split
from m2det.data.sources.detect_format import find_layout
from m2det.data.sources.manifest import load_sources, write_manifest
from m2det.data.sources.presence import missing_files
from m2det.errors import InputError

PICTURE = cv2.imencode(".jpg", np.zeros((40, 50, 3), np.uint8))[1].tobytes()
XML = """<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>
</object></annotation>"""


def coco(*names, boxes=1):
    images = [{"id": i, "file_name": name, "width": 50, "height": 40} for i, name in enumerate(names, 1)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 20, 9]} for i in range(1, boxes + len(names))]
    content = {"images": images, "annotations": objects[: len(names)], "categories": [{"id": 1, "name": "cat"}]}
    return json.dumps({"info": {"year": 2026}, **content})


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PICTURE + name.encode() if name.endswith(".jpg") else text.encode())
    return root


def data_params(root, **settings):
    return DataParams.model_validate(defaults()["data"] | {"source": "auto", "root": str(root)} | settings)


def images(*folders):
    return {f"{folder}/{n}.jpg": "" for folder in folders for n in "ab"}


ROBOFLOW = {f"{name}/_annotations.coco.json": coco("a.jpg", "b.jpg") for name in ("train", "valid", "test")}
OFFICIAL = {f"annotations/instances_{name}2017.json": coco("a.jpg", "b.jpg") for name in ("train", "val")}
OTHER_TASKS = {
    "annotations/captions_val2017.json": json.dumps(
        {"images": [{"file_name": "a"}], "annotations": [{"caption": "c"}]}
    ),
    "annotations/person_keypoints_val2017.json": coco("a.jpg").replace('"name"', '"keypoints": [], "name"'),
}
CVAT = {f"annotations/instances_{name}.json": coco("a.jpg", "b.jpg") for name in ("train", "test")}
LABELS = {"labels/a.txt": "0 0.5 0.5 0.2 0.2", "labels/b.txt": ""}
WAYS = {
    "Roboflow's COCO": (
        ROBOFLOW | images("train", "valid", "test"),
        "COCO: train is train/_annotations.coco.json with the images in train, "
        "val is valid/_annotations.coco.json with the images in valid",
    ),
    "COCO as its site has it": (
        OFFICIAL | OTHER_TASKS | images("train2017", "val2017"),
        "COCO: train is annotations/instances_train2017.json with the images in train2017, "
        "val is annotations/instances_val2017.json with the images in val2017",
    ),
    "COCO below images": (
        {"train.json": coco("a.jpg", "b.jpg"), "val.json": coco("a.jpg")} | images("images/train", "images/val"),
        "COCO: train is train.json with the images in images/train, val is val.json with the images in images/val",
    ),
    "CVAT's COCO, test in want of val": (
        CVAT | images("images/train", "images/test"),
        "COCO: train is annotations/instances_train.json with the images in images/train, "
        "val is annotations/instances_test.json with the images in images/test",
    ),
    "one COCO file, names with folders": (
        {"result.json": coco("images/a.jpg", "images/b.jpg")} | images("images"),
        "COCO: train is result.json with the images in .",
    ),
    "YOLO": (
        {"data.yaml": "names: [cat]\n"} | LABELS | images("images"),
        "YOLO: data.yaml names 1 classes; train has 2 images",
    ),
    "YOLO without data.yaml": (
        {"classes.txt": "cat\n", "notes.json": "{}"} | LABELS | images("images"),
        "YOLO: classes.txt names 1 classes; train has 2 images",
    ),
    "VOC": (
        {"Annotations/a.xml": XML, "Annotations/b.xml": XML} | images("JPEGImages"),
        "Pascal VOC: train has 2 XML files, by their folders, without lists",
    ),
    "Roboflow's VOC": (
        {f"{split}/{n}.xml": XML for split in ("train", "valid") for n in "ab"} | images("train", "valid"),
        "Pascal VOC: train has 2 XML files, val has 2 XML files, by their folders, without lists",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_format_is_recognised_and_said(tmp_path, way):
    files, saw = WAYS[way]
    root = write(tmp_path / "root", files)
    params = data_params(root)
    assert not [*missing_files(params, tmp_path)], "preflight finds nothing missing"
    layout = find_layout(params, root)
    assert layout.saw == saw
    converted = layout.convert(tmp_path / "data", 0.5)
    (tmp_path / "data").mkdir(exist_ok=True)
    write_manifest(
        tmp_path / "data/manifest.json", (tmp_path / "data" if converted.made else root, root), converted.pairs
    )
    for pairs in load_sources(tmp_path / "data/manifest.json", (root, root)).values():
        split = read_split(pairs)
        assert split.records and [category.name for category in split.categories] == ["cat"]
        assert all(record.path.is_file() for record in split.records)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, r"holds no data set that is recognised; looked for JSON files .* its files by suffix: none; see docs"),
        (
            images("images") | {"labels.csv": "a,1", "result.json": "[]"},
            r"looked for JSON files with COCO's lists, a data\.yaml .* XML .* suffix: 2 \.jpg, 1 \.csv, 1 \.json",
        ),
        (
            {"data.yaml": "names: [cat]\n", "Annotations/a.xml": XML} | images("images"),
            r"more than one format: yolo \(data\.yaml has `names`\); voc \(Annotations/a\.xml is .*set data\.source",
        ),
        (
            {"train_1.json": coco("a.jpg"), "train_2.json": coco("b.jpg")} | images("train"),
            r"several annotation files for train: train_1\.json, train_2\.json; set data\.source: coco, and list",
        ),
        ({"train.json": coco("c.jpg")} | images("train"), r"no image that .*train\.json names, the first is 'c\.jpg',"),
        ({"train.json": coco("A.JPG")} | images("train"), r"the first is 'A\.JPG',.*; 1 differ in "),
        ({"train.json": coco("/x/a.jpg")} | images("."), r"1 differ in folders before .*'/x/' is too much"),
        ({"val.json": coco("a.jpg")} | images("val"), r"COCO's format has images for val only; training needs some"),
    ],
)
def test_what_is_not_clear_is_asked(tmp_path, files, sentence):
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(InputError, match=sentence):
        find_layout(data_params(write(root, files)), root)
    assert len([*missing_files(data_params(root), tmp_path)]) == 1, "preflight says so, too"


def test_the_users_own_lists_are_not_looked_for(tmp_path):
    root = write(tmp_path / "root", {"x.json": coco("a.jpg"), "y.json": coco("b.jpg")} | images("images"))
    lists = {
        name: [{"annotations": f"{file}.json", "images": "images"}] for name, file in (("train", "x"), ("val", "y"))
    }
    layout = find_layout(data_params(root, **lists), root)
    converted = layout.convert(tmp_path / "data", 0.5)
    assert not converted.made and converted.pairs == {"train": [("x.json", "images")], "val": [("y.json", "images")]}
    assert layout.annotation_files() == ["x.json", "y.json"]


def test_large_annotation_files_are_recognised_by_their_ends(tmp_path):
    many = coco(*(f"{i:040d}.jpg" for i in range(3000)))
    assert len(many) > 4 * 65536
    root = write(tmp_path / "root", {"anything.json": many, f"photos/{0:040d}.jpg": ""})
    assert find_layout(data_params(root), root).saw == "COCO: train is anything.json with the images in photos"


def test_utf16_is_recognised_and_gzip_is_told(tmp_path):
    root = write(tmp_path / "root", images("photos"))
    (root / "all.json").write_bytes(coco("a.jpg", "b.jpg").encode("utf-16"))
    layout = find_layout(data_params(root), root)
    assert layout.saw == "COCO: train is all.json with the images in photos"
    [(file, folder)] = layout.pairs["train"]
    assert [record.file_name for record in read_split([(root / file, root / folder)]).records] == ["a.jpg", "b.jpg"]
    (root / "all.json").unlink()
    (root / "all.json.gz").write_bytes(gzip.compress(coco("a.jpg").encode()))
    with pytest.raises(InputError, match=r"all\.json\.gz is no JSON, but compressed by gzip: unpack it"):
        find_layout(data_params(root), root)
