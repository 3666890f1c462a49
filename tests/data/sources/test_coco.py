import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2det.data.sources.coco import NOT_POSITIVE, OUTSIDE, TOO_THIN, read_split, read_splits
from m2det.data.sources.coco2014 import SPLITS
from m2det.data.sources.records import Split
from m2det.errors import InputError
from m2det.files.hashing import digest


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 20, "file_name": "b.jpg", "width": 100, "height": 50},
            {"id": 10, "file_name": "a.jpg", "width": 100, "height": 50},
        ],
        "annotations": [
            {"id": 5, "image_id": 10, "category_id": 7, "bbox": [10, 20, 30, 10], "area": 250.0, "iscrowd": 0}
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}],
    }


def read(tmp_path: Path, *contents: dict[str, Any]) -> Split:
    sources = []
    for number, each in enumerate(contents):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(each))
        sources.append((path, tmp_path / f"images{number}"))
    return read_split(sources)


def test_files_join_into_one_split_sorted_by_id(tmp_path: Path) -> None:
    first, second = content(), content()
    for image, image_id in zip(second["images"], (5, 15), strict=True):
        image["id"] = image_id
    second["annotations"] = [
        {"id": 5, "image_id": 15, "category_id": 9, "bbox": [0, 0, 5, 5]},
        {"id": 6, "image_id": 15, "category_id": 7, "bbox": [1, 1, 5, 5], "area": 20, "iscrowd": 1},
    ]
    split = read(tmp_path, first, second)
    assert [(r.image_id, r.file_name, r.path.parent.name, len(r.boxes)) for r in split.records] == [
        (5, "b.jpg", "images1", 0),
        (10, "a.jpg", "images0", 1),
        (15, "a.jpg", "images1", 2),
        (20, "b.jpg", "images0", 0),
    ]
    assert [(c.id, c.name) for c in split.categories] == [(7, "cat"), (9, "dog")]
    one, two = split.records[1], split.records[2]
    assert one.boxes.tolist() == [[10, 20, 39, 29]]
    assert (one.labels.tolist(), one.iscrowd.tolist(), one.area.tolist()) == ([1], [False], [250])
    assert (two.labels.tolist(), two.iscrowd.tolist(), two.area.tolist()) == ([2, 1], [False, True], [25, 20])
    for record in split.records:
        assert record.boxes.dtype == np.float32 and record.boxes.shape == (len(record.labels), 4)
        assert (record.labels.dtype, record.iscrowd.dtype, record.area.dtype) == (np.int16, bool, np.float32)


@pytest.mark.parametrize(
    ("bbox", "area", "kept", "reason"),
    [
        ([10, 20, 30, 10], 300, [10, 20, 39, 29], None),
        ([0, 0, 100, 50], 5000, [0, 0, 99, 49], None),
        ([-5, -5, 30, 10], 300, [0, 0, 24, 4], "clipped"),
        ([-50, 10, 100, 40], 4000, [0, 10, 49, 49], "clipped"),
        ([10, -20, 30, 100], 3000, [10, 0, 39, 49], "clipped"),
        ([-29.5, 10, 30, 10], 300, None, TOO_THIN),
        ([90, 45, 30, 10], 300, [90, 45, 99, 49], "clipped"),
        ([10, 20, 1.5, 10], 15, [10, 20, 10.5, 29], None),
        ([10, 20, 0, 10], 0, None, NOT_POSITIVE),
        ([100, 20, 30, 10], 300, None, OUTSIDE),
        ([10, 60, 30, 10], 300, None, OUTSIDE),
        ([-40, 20, 30, 10], 300, None, OUTSIDE),
        ([10, 20, 1, 10], 10, None, TOO_THIN),
        ([10, 20, 30, 0.4], 12, None, TOO_THIN),
        ([99, 20, 30, 10], 300, None, TOO_THIN),
    ],
)
def test_boxes_are_cut_at_the_edges_or_left_out(
    tmp_path: Path, bbox: list[float], area: float, kept: list[float] | None, reason: str | None
) -> None:
    one = content()
    one["annotations"][0] |= {"bbox": bbox, "area": area}
    split = read(tmp_path, one)
    assert split.records[0].boxes.tolist() == ([] if kept is None else [kept])
    assert split.clipped == (reason == "clipped")
    assert {name for name, count in split.dropped.items() if count} == {reason} - {None, "clipped"}
    # scoring is against what the annotators drew
    [truth] = split.ground_truth["annotations"]
    assert truth == {"id": 1, "image_id": 10, "category_id": 7, "bbox": bbox, "area": area, "iscrowd": 0}


def test_images_without_any_annotation_are_allowed(tmp_path: Path) -> None:
    split = read(tmp_path, content() | {"annotations": []})
    assert [len(record.boxes) for record in split.records] == [0, 0]
    assert [image["id"] for image in split.ground_truth["images"]] == [10, 20]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no images": ({"images": []}, "has no images"),
    "no categories": ({"categories": []}, "has no categories"),
    "no list": ({"images": {}}, "'images' must be a list"),
    "category id": ({"annotations": [{"category_id": 8}]}, "annotation 5 has category id 8, which is not in"),
    "image id": ({"annotations": [{"image_id": 11}]}, "annotation 5 names image id 11"),
    "three numbers": ({"annotations": [{"bbox": [1, 2, 3]}]}, "annotation 5 has bbox .1, 2, 3.; .* four"),
    "not finite": ({"annotations": [{"bbox": [1, 2, float("nan"), 4]}]}, "annotation 5 has bbox .* finite"),
    "text": ({"annotations": [{"bbox": [1, 2, "3 px", 4]}]}, "annotation 5 has bbox .* four finite"),
    "huge": ({"annotations": [{"bbox": [1, 2, 10**400, 4]}]}, "annotation 5 has bbox .* four finite"),
    "area": ({"annotations": [{"area": float("inf")}]}, "annotation 5 has area inf"),
    "crowd": ({"annotations": [{"iscrowd": 2}]}, "annotation 5 has iscrowd 2; it must be 0 or 1"),
    "width": ({"images": [{"width": 0}, {}]}, "image 20 has width 0 and height 50"),
    "height": ({"images": [{"height": "50 px"}, {}]}, "image 20 has width 100 and height '50 px'"),
    "half a pair": ({"images": [{"file_name": "\u00e9\ud83d.jpg"}, {}]}, "image 20 has file_name .*, no text"),
    "half a pair's end": ({"categories": [{"name": "\udc08"}, {}]}, r"category \d+ has name .*, no text"),
    "text id": ({"images": [{"id": "x"}, {}]}, "image id 'x' must be a whole number; it is text that is no plain"),
    "zeros": ({"annotations": [{"image_id": "007"}]}, "annotation 5 names image id '007'.*text that is no plain"),
    "fraction": ({"images": [{"id": 1.5}, {}]}, "image id 1.5 must be a whole number; it is a fraction"),
    "too large an id": ({"images": [{"id": 2**63}, {}]}, "image id 9223372036854775808 must be .* 64 bits"),
    "twice": ({"images": [{}, {"id": 20}]}, "image id 20 occurs twice"),
    "category twice": ({"categories": [{"id": 7}, {}]}, "category id 7 occurs twice"),
    "name twice": ({"categories": [{"name": "cat"}, {}]}, "category name 'cat' occurs twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_entry_is_named_with_file_and_id(tmp_path: Path, case: str) -> None:
    changes, sentence = WRONG[case]
    wrong = content()
    for key, value in changes.items():
        merge = isinstance(value, list) and value
        wrong[key] = [old | new for old, new in zip(wrong[key], value, strict=True)] if merge else value
    with pytest.raises(InputError, match=rf"0\.json.*{sentence}"):
        read(tmp_path, wrong)


@pytest.mark.parametrize(
    ("where", "key"),
    [
        *[(None, key) for key in ("images", "annotations", "categories")],
        *[("images", key) for key in ("id", "file_name", "width", "height")],
        *[("annotations", key) for key in ("image_id", "category_id", "bbox")],
        *[("categories", key) for key in ("id", "name")],
    ],
)
def test_a_missing_key_is_named(tmp_path: Path, where: str | None, key: str) -> None:
    wrong = content()
    del (wrong[where][0] if where else wrong)[key]
    with pytest.raises(InputError, match=rf"0\.json.* lacks the key '{key}'"):
        read(tmp_path, wrong)


def test_files_without_annotations_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"a\.json: no such annotation file"):
        read_split([(path, tmp_path)])
    truncated = json.dumps(content()).encode()[:-20]
    for data, words in ((b"", "no JSON, but empty"), (truncated, "no valid JSON .* truncated")):
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"a\.json is {words}"):
            read_split([(path, tmp_path)])
    path.write_text('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    with pytest.raises(InputError, match=r"a\.json must be an object with the keys images, annotations"):
        read_split([(path, tmp_path)])


def archived(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.json", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("disguise", "sentence"),
    [
        (archived, "is no JSON, but a zip archive: unpack it"),
        (gzip.compress, "is no JSON, but compressed by gzip"),
        (lambda data: b"\xff\xd8\xff\xe0" + data, "is no JSON, but a JPEG image"),
        (lambda data: b" <html>" + data, "is no JSON, but XML or HTML"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (
            lambda data: data.decode().replace("cat", "cat\xe9").encode("latin-1"),
            "not UTF-8: byte 0xe9 .* near .*cat\xe9",
        ),
    ],
)
def test_a_file_of_another_kind_is_told_as_that(
    tmp_path: Path, disguise: Callable[[bytes], bytes], sentence: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(disguise(json.dumps(content()).encode()))
    with pytest.raises(InputError, match=rf"a\.json.*{sentence}"):
        read_split([(path, tmp_path)])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_in_any_unicode_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    one = content()
    one["categories"][1]["name"] = "\u732b"
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(one, ensure_ascii=False).encode(encoding))
    assert [category.name for category in read_split([(path, tmp_path)]).categories] == ["\u732b", "dog"]


def test_numbers_as_text_or_with_a_point_are_taken_where_they_are_exact(tmp_path: Path) -> None:
    one = content()
    one["images"] = [image | {"id": str(image["id"]), "width": 100.0} for image in one["images"]]
    one["annotations"][0] |= {"image_id": 10.0, "category_id": "7", "bbox": ["10", "20", "30.5", "10"]}
    split = read(tmp_path, one)
    [truth] = split.ground_truth["annotations"]
    assert [record.image_id for record in split.records] == [10, 20] and split.records[0].width == 100
    assert (truth["image_id"], truth["category_id"], truth["bbox"]) == (10, 7, [10, 20, 30.5, 10])
    [note] = split.notes
    assert note.code == "numbers-as-text" and "0.json" in note.text and "images[0].id" in note.text


def test_nan_in_keys_of_no_use_does_no_harm(tmp_path: Path) -> None:
    one = content()
    one["annotations"][0] |= {"score": float("nan"), "segmentation": [[float("inf")]], "note": "\ud83d"}
    assert len(read(tmp_path, one).records[0].boxes) == 1


@pytest.mark.parametrize("area", [0, 0.0, -3, None])
def test_a_box_without_a_known_area_has_width_times_height(tmp_path: Path, area: float | None) -> None:
    one = content()
    one["annotations"][0] |= {"area": area, "iscrowd": None}
    split = read(tmp_path, one)
    assert split.records[0].area.tolist() == [300] and split.ground_truth["annotations"][0]["area"] == 300
    assert split.ground_truth["annotations"][0]["iscrowd"] == 0
    assert [(note.code, note.count) for note in split.notes] == ([] if area is None else [("area-from-box", 1)])


def test_what_is_left_out_is_said_with_file_count_and_reason(tmp_path: Path) -> None:
    first, second = content(), content()
    box = first["annotations"][0]
    first["annotations"] = [box | {"bbox": [500, 0, 9, 9]}, box | {"bbox": [600, 0, 9, 9]}, box]
    second["annotations"] = [box | {"bbox": [3, 3, 0.5, 9]}]
    texts = [note.text for note in read(tmp_path, first, second).notes if note.code == "dropped-boxes"]
    assert len(texts) == 2
    assert (
        "0.json: 2 of 3 boxes are left out of training: outside the image, such as [500, 0, 9, 9] of a.jpg" in texts[0]
    )
    assert "1.json: 1 of 1 boxes are left out of training: 1 px or less" in texts[1]


@pytest.mark.parametrize("ids", [(-20, -10), (0, 2**63 - 1), (-(2**63), 5)])
def test_any_integer_id_is_read(tmp_path: Path, ids: tuple[int, int]) -> None:
    one = content()
    for image, image_id in zip(one["images"], ids, strict=True):
        image["id"] = image_id
    one["annotations"][0] |= {"image_id": ids[1], "category_id": -7}
    one["categories"][1]["id"] = -7
    split = read(tmp_path, one)
    assert [record.image_id for record in split.records] == sorted(ids)
    assert split.ground_truth["annotations"][0]["image_id"] == ids[1] and split.categories[0].id == -7


def test_exports_that_each_number_from_1_are_joined(tmp_path: Path) -> None:
    """The first keeps its ids; of the second only those change that the first has, too."""
    first, second = content(), content()
    second["images"][1]["id"] = 15
    second["annotations"][0] |= {"image_id": 20, "bbox": [1, 1, 5, 5]}
    split = read(tmp_path, first, second)
    assert [(r.image_id, r.path.parent.name, r.file_name, len(r.boxes)) for r in split.records] == [
        (10, "images0", "a.jpg", 1),
        (15, "images1", "a.jpg", 0),
        (20, "images0", "b.jpg", 0),
        (21, "images1", "b.jpg", 1),
    ]
    assert [a["image_id"] for a in split.ground_truth["annotations"]] == [10, 21]
    [note] = split.notes
    assert (note.code, note.count) == ("renumbered-images", 1) and "1.json" in note.text and "20 by 21" in note.text


def test_a_file_that_is_listed_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content()))
    with pytest.raises(InputError, match=r"a\.json is listed twice for train"):
        read_splits({"train": [(path, tmp_path)] * 2})


def test_real_coco(shared: Path) -> None:
    root = shared / "coco2014-mini"
    names = (("train", "train"), ("valminusminival", "val"))
    split = read_split([(root / f"annotations/instances_{a}2014.json", root / f"images/{b}2014") for a, b in names])
    assert len(split.records) == 126 and len(split.categories) == 80
    assert all(record.path.is_file() for record in split.records)
    assert split.categories[-1].id == 90 and max(int(r.labels.max(initial=0)) for r in split.records) <= 80
    boxes = sum(len(record.boxes) for record in split.records)
    assert boxes + sum(split.dropped.values()) == len(split.ground_truth["annotations"]) > 500
    for record in split.records:
        x1, y1, x2, y2 = record.boxes.T
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 > x1).all() and (y2 > y1).all()
        assert (x2 <= record.width - 1).all() and (y2 <= record.height - 1).all()


def content_digest(split: Split) -> str:
    """Return a hash over all that the packed cache takes from a split."""
    columns = [c for record in split.records for c in (record.boxes, record.labels, record.iscrowd, record.area)]
    named = [[record.image_id, record.file_name, record.width, record.height] for record in split.records]
    categories = [[category.id, category.name] for category in split.categories]
    rest = json.dumps([named, categories, split.dropped, split.clipped, split.ground_truth])
    return digest(rest.encode(), *(column.tobytes() for column in columns))


def test_what_is_read_of_coco_is_what_the_first_reader_read(shared: Path) -> None:
    """By commit 6df7a04, whose boxes over the left and upper edges were moved: COCO has none. Caches stay valid."""
    root = shared / "coco2014-mini"
    for name, start in (("train", "79040af685780e8c"), ("val", "a6aaa6d2947d159c")):
        split = read_split([(root / annotations, root / images) for annotations, images in SPLITS[name]])
        assert content_digest(split).startswith(start) and not split.notes


def test_more_categories_than_labels_are_named(tmp_path: Path) -> None:
    one = content()
    one["categories"] += [{"id": 100 + i, "name": f"more {i}"} for i in range(2**15)]
    with pytest.raises(InputError, match=r"0\.json has 32770 categories; 32767 are the most"):
        read(tmp_path, one)


@pytest.mark.parametrize("name", ["", "x" * 1001])
def test_a_category_name_that_no_model_file_takes_is_an_error(tmp_path: Path, name: str) -> None:
    one = content()
    one["categories"][0]["name"] = name
    with pytest.raises(InputError, match=r"the name of category \d+ must have 1 to 1000 characters"):
        read(tmp_path, one)
