"""A validation set that is cut from the images: the same in any order, no picture on both sides."""

import json
import random

import cv2
import numpy as np
import pytest

from m2det.data.sources.coco import read_split
from m2det.data.sources.coco_layout import CocoLayout
from m2det.data.sources.tree import Tree
from m2det.data.sources.val_share import choose_validation, picture_hash
from m2det.errors import InputError

PICTURES = [
    cv2.imencode(".jpg", np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8))[1].tobytes()
    for i in range(40)
]
NAMED = [(f"{i}.jpg", data) for i, data in enumerate(PICTURES)]


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def with_metadata(data: bytes) -> bytes:
    return data[:2] + segment(0xE1, b"Exif\0\0 of a camera \xff\xd9") + segment(0xFE, b"a comment") + data[2:]


@pytest.mark.parametrize(("share", "number"), [(0.2, 8), (0.1, 4), (0.5, 20), (0.9, 36), (0.001, 1)])
def test_the_share_is_kept_in_any_order_and_under_any_names(share, number):
    chosen = choose_validation(NAMED, share, "root")
    assert len(chosen) == number
    shuffled = random.Random(1).sample(NAMED, len(NAMED))
    assert choose_validation(shuffled, share, "root") == chosen
    other = {name: f"{39 - i}.jpg" for i, (name, _) in enumerate(NAMED)}
    assert choose_validation([(other[name], data) for name, data in NAMED], share, "root") == {other[n] for n in chosen}


@pytest.mark.parametrize("seed", range(10))
def test_one_picture_is_never_on_both_sides(seed):
    copies = [(f"copy/{name}", data) for name, data in NAMED[:10]]
    copies += [(f"sent/{name}", with_metadata(data)) for name, data in NAMED[5:15]]
    versions = [(f"{i}_jpg.rf.{k}abc.jpg", PICTURES[20 + 2 * i + k]) for i in range(5) for k in range(2)]
    images = random.Random(seed).sample(NAMED[:20] + copies + versions, 50)
    chosen = choose_validation(images, 0.3, "root")
    assert 12 <= len(chosen) <= 18
    assert chosen == choose_validation(NAMED[:20] + copies + versions, 0.3, "root")
    for i in range(15):
        same = {name for name, _ in images if f"/{name}".endswith(f"/{i}.jpg")}
        assert len(same) in (2, 3) and (same <= chosen or not same & chosen)
    for i in range(5):
        both = {name for name, _ in versions if name.startswith(f"{i}_")}
        assert both <= chosen or not both & chosen


def test_metadata_are_no_part_of_a_picture_and_all_else_is():
    data = PICTURES[0]
    assert picture_hash(with_metadata(data)) == picture_hash(data) != picture_hash(PICTURES[1])
    assert picture_hash(data[:-3] + b"\0" + data[-2:]) != picture_hash(data)
    png = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    assert picture_hash(png) != picture_hash(png + b"\0")


def test_there_must_be_a_share_and_two_pictures():
    with pytest.raises(InputError, match=r"no validation images are given, and data\.val_share is 0: set that"):
        choose_validation(NAMED, 0, "root")
    with pytest.raises(InputError, match=r"all images are one picture"):
        choose_validation([("a.jpg", PICTURES[0]), ("b.jpg", PICTURES[0])], 0.5, "root")
    assert len(choose_validation(NAMED[:2], 0.9, "root")) == 1, "never all"


def test_coco_files_are_cut_whole_and_the_users_file_is_named(tmp_path):
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    for name, data in NAMED:
        (root / "images" / name).write_bytes(data)
    categories = [{"id": 7, "name": "cat", "supercategory": "pets"}]
    for part in (0, 1):  # both number from 1, and have the images 15 to 24 in common
        numbers = range(part * 15, part * 15 + 25)
        images = [{"id": i, "file_name": f"{n}.jpg", "width": 8, "height": 8} for i, n in enumerate(numbers, 1)]
        objects = [{"id": i, "image_id": i, "category_id": 7, "bbox": [1, 1, 4, 4]} for i in range(1, 26)]
        content = {"images": images, "annotations": objects, "categories": categories}
        (root / f"{part}.json").write_text(json.dumps(content))
    layout = CocoLayout(Tree(root), {"train": [(f"{part}.json", "images") for part in (0, 1)], "val": []})
    converted = layout.convert(tmp_path / "data", 0.25)
    assert converted.made and converted.notes[0].text.startswith("no validation images are given")
    found = {}
    for split, pairs in converted.pairs.items():
        contents = [json.loads((tmp_path / "data" / file).read_text()) for file, _ in pairs]
        assert all(content["categories"] == categories for content in contents)
        assert all(len(content["annotations"]) == len(content["images"]) for content in contents)
        found[split] = {image["file_name"] for content in contents for image in content["images"]}
        assert read_split([(tmp_path / "data" / pairs[0][0], root / "images")]).records
    assert not found["train"] & found["val"] and len(found["val"]) == 10 and len(found["train"]) == 30
    (root / "images/7.jpg").rename(root / "images/7.JPG")
    with pytest.raises(
        InputError, match=r"^1 of the 50 images .* missing: .*images/7\.jpg does not exist; 1 differ in "
    ):
        layout.convert(tmp_path / "data", 0.25)
    assert layout.convert(tmp_path / "skipping", 0.25, skip=True).made
    (root / "images/7.JPG").rename(root / "images/7.jpg")
    content["annotations"][0]["bbox"] = "wrong"
    (root / "1.json").write_text(
        json.dumps(content | {"images": [{"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}]})
    )
    with pytest.raises(InputError, match=rf"^{root}/1\.json: annotation "):
        layout.convert(tmp_path / "data", 0.25)
