"""Figures are legible and bounded whatever the classes, and give no number to what is not defined."""

import csv
import json

import cv2
import numpy as np
import pytest

from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.viz.curves import (
    drawable,
    precision_by_recall,
    read_class_ap,
    write_class_ap,
    write_precision_recall,
)
from m2det.viz.labels import MAX_CLASSES, write_labels


@pytest.mark.filterwarnings("error")  # matplotlib warns of a character that it cannot draw
def test_labels_of_a_thousand_classes_are_a_picture_of_the_most_frequent(tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/1.jpg"), np.zeros((90, 120, 3), np.uint8))
    names = [f"\u732b {n}" for n in range(1000)]
    often = list(range(0, 1000, 10))  # two boxes each; the others have one
    labels = [*range(1000), *often]
    annotations = [
        {"id": n, "image_id": 1, "category_id": label + 1, "bbox": [5, 5, 40, 30], "area": 1200}
        for n, label in enumerate(labels)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 120, "height": 90}],
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    split, cache = read_split([(tmp_path / "a.json", tmp_path / "images")]), tmp_path / "cache"
    cache.mkdir()
    finish_cache(cache, split.categories, {"val": write_split(cache, "val", split)})
    write_labels(tmp_path / "labels.csv", tmp_path / "labels.png", [PackedSplit(cache, "val")], [0.1])
    assert len(often) == MAX_CLASSES and cv2.imread(str(tmp_path / "labels.png")).shape[0] < 2000
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1:3] == [["\u732b 0", "2"], ["\u732b 1", "1"]] and len(rows) == 1001


def test_text_is_drawn_in_characters_that_the_font_has():
    assert drawable("caf\u00e9 $x_{ \U0001f600") == "caf\u00e9 $x_{ \U0001f600"
    assert drawable("\u732b\u202e") == "\\u732b\\u202e"


def test_curves_without_objects_are_empty(tmp_path):
    curves = precision_by_recall(np.full((10, 101, 2), -1.0))
    write_precision_recall(tmp_path / "curves.csv", curves)
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert len(lines) == 102 and lines[1] == "0.00,,," and lines[-1] == "1.00,,,"


def test_ap_by_class_and_size_is_read_as_written(tmp_path):
    ap = np.array([[0.5, -1, 0.25, 0.75], [-1] * 4])
    write_class_ap(tmp_path / "classes.csv", ["<a>", "b,\n"], ap)
    assert (tmp_path / "classes.csv").read_text() == (
        'class,AP,APs,APm,APl\n\\x3ca\\x3e,0.5000,,0.2500,0.7500\n"b,\\n",,,,\n'
    )
    assert (read_class_ap(tmp_path / "classes.csv") == ap).all()
