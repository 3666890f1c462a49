"""Class names decide: files that list or number them differently, and data.classes."""

import json
from pathlib import Path

import pytest

from m2det.data.sources.classes import Classes
from m2det.data.sources.coco import read_splits
from m2det.data.sources.records import Split
from m2det.errors import InputError


def read(folder: Path, classes: Classes = (), **categories: dict[int, str]) -> dict[str, Split]:
    """Write an annotation file for each split, with one box of each class on image 1, and read them."""
    sources = {}
    for name, named in categories.items():
        content = {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
            "annotations": [{"image_id": 1, "category_id": i, "bbox": [i, i, 9, 9]} for i in named],
            "categories": [{"id": i, "name": word} for i, word in named.items()],
        }
        path = folder / f"{name}.json"
        path.write_text(json.dumps(content))
        sources[name] = [(path, folder)]
    return read_splits(sources, classes=classes)


def boxes_by_class(split: Split) -> dict[str, list[float]]:
    """Return the left edges of each class's boxes, and check that the ground truth has the same."""
    names = {category.id: category.name for category in split.categories}
    [record] = split.records
    found: dict[str, list[float]] = {}
    for label, box in zip(record.labels, record.boxes, strict=True):
        found.setdefault(split.categories[label - 1].name, []).append(float(box[0]))
    truth: dict[str, list[float]] = {}
    for annotation in split.ground_truth["annotations"]:
        truth.setdefault(names[annotation["category_id"]], []).append(annotation["bbox"][0])
    assert truth == found
    return found


def classes_of(split: Split) -> list[tuple[int, str]]:
    return [(category.id, category.name) for category in split.categories]


def test_a_file_that_lists_fewer_classes_has_the_others_numbers(tmp_path: Path) -> None:
    splits = read(tmp_path, train={1: "cat", 2: "dog"}, val={1: "dog"})
    assert classes_of(splits["train"]) == classes_of(splits["val"]) == [(1, "cat"), (2, "dog")]
    assert boxes_by_class(splits["val"]) == {"dog": [1]}
    assert splits["val"].ground_truth["annotations"][0]["category_id"] == 2
    [note] = splits["val"].notes
    assert note.code == "other-classes" and not splits["train"].notes
    assert "val.json lists other categories than " in note.text and "train.json: it lacks cat (1)" in note.text
    assert "other ids have dog (1, there 2)" in note.text


def test_a_class_of_later_files_gets_its_own_id_or_a_free_one(tmp_path: Path) -> None:
    splits = read(tmp_path, train={1: "cat", 2: "dog"}, val={1: "cat", 2: "dogs", 7: "cow"})
    assert classes_of(splits["train"]) == [(1, "cat"), (2, "dog"), (7, "cow"), (8, "dogs")]
    assert boxes_by_class(splits["val"]) == {"cat": [1], "dogs": [2], "cow": [7]}
    assert "it has dogs (2) (did you mean 'dog'?), cow (7)" in splits["val"].notes[0].text


def test_splits_without_a_common_class_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"val\.json has no class of .*train\.json.*'Cat' \(did you mean 'cat'\?\)"):
        read(tmp_path, train={1: "cat"}, val={1: "Cat"})
    splits = read(tmp_path, [{"cat": ["cat", "Cat"]}], train={1: "cat"}, val={1: "Cat"})
    assert [boxes_by_class(split) for split in splits.values()] == [{"cat": [1]}] * 2


@pytest.mark.parametrize(
    ("classes", "named", "boxes"),
    [
        (["dog", "cat"], [(1, "cat"), (2, "dog")], {"cat": [1], "dog": [2]}),
        ([{"kitty": ["cat"]}], [(1, "kitty")], {"kitty": [1]}),
        ([{"animal": ["dog", "cat"]}, "car"], [(2, "animal"), (3, "car")], {"animal": [1, 2], "car": [3]}),
        ([{"dog": ["cat"]}, {"cat": ["dog"]}], [(1, "dog"), (2, "cat")], {"dog": [1], "cat": [2]}),
    ],
)
def test_classes_are_selected_renamed_and_merged(
    tmp_path: Path, classes: Classes, named: list[tuple[int, str]], boxes: dict[str, list[float]]
) -> None:
    """The training boxes and the ground truth alike."""
    names = {1: "cat", 2: "dog", 3: "car"}
    splits = read(tmp_path, classes, train=names, val=names)
    for split in splits.values():
        assert classes_of(split) == named
        assert boxes_by_class(split) == boxes
    left_out = 3 - sum(map(len, boxes.values()))
    notes = [(note.code, note.count) for note in splits["train"].notes]
    assert notes == ([("other-classes-left-out", left_out)] if left_out else [])


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (["cats"], r"no class is called 'cats' \(did you mean 'cat'\?\)"),
        (["zebra"], "no class is called 'zebra'; there are cat, dog"),
        (["cat", {"animal": ["cat", "dog"]}], "'cat' belongs to two classes"),
        (["cat", {"cat": ["dog"]}], "'cat' occurs twice"),
    ],
)
def test_classes_that_cannot_be_are_named(tmp_path: Path, classes: Classes, sentence: str) -> None:
    with pytest.raises(InputError, match=rf"data\.classes: {sentence}"):
        read(tmp_path, classes, train={1: "cat", 2: "dog"})
