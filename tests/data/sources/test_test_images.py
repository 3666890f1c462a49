"""The split `test`: images that may lack annotations, named in data.test or called test in a set of one's own."""

import json

import pytest

from m2det.config import check_params
from m2det.config.schema import defaults
from m2det.config.sections.data import DataParams
from m2det.data.checks.run import check_annotations
from m2det.data.sources.annotation_files import annotation_files
from m2det.data.sources.coco import read_splits
from m2det.data.sources.coco_json import read_coco
from m2det.data.sources.detect_format import find_layout
from m2det.data.sources.manifest import load_sources, write_manifest
from m2det.data.sources.presence import missing_files
from m2det.data.sources.split_names import split_of
from m2det.errors import InputError

NAMED = [{"annotations": "info.json", "images": "."}]


def coco(*names, classes=("cat",), **left_out):
    images = [{"id": i, "file_name": name, "width": 50, "height": 40} for i, name in enumerate(names, 1)]
    objects = [{"image_id": i, "category_id": i, "bbox": [1, 2, 20, 9]} for i in range(1, 1 + len(names))]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    content = {"images": images, "annotations": objects, "categories": categories}
    return json.dumps({key: value for key, value in content.items() if key not in left_out})


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def section(root, **settings):
    return DataParams.model_validate(defaults()["data"] | {"source": "auto", "root": str(root)} | settings)


def pairs(root, **names):
    return {split: [(root / name, root)] for split, name in names.items()}


def test_a_file_of_test_images_may_lack_annotations_but_no_other(tmp_path):
    write(tmp_path, {"info.json": coco("a.jpg", annotations=True), "train.json": coco("b.jpg")})
    splits = read_splits(pairs(tmp_path, train="train.json", val="train.json", test="info.json"))
    [image] = splits["test"].records
    assert image.file_name == "a.jpg" and len(image.boxes) == 0 and splits["test"].ground_truth["annotations"] == []
    with pytest.raises(InputError, match=r"info.json lacks the key 'annotations'"):
        read_coco(tmp_path / "info.json")
    write(tmp_path, {"info.json": coco("a.jpg", annotations=True, categories=True)})
    with pytest.raises(InputError, match=r"info.json lacks the key 'categories'"):
        read_coco(tmp_path / "info.json", unlabelled=True)


def test_test_images_add_no_class_to_a_model(tmp_path):
    files = {"train.json": coco("a.jpg", classes=("cat",)), "test.json": coco("b.jpg", "c.jpg", classes=("dog", "cat"))}
    write(tmp_path, files)
    splits = read_splits(pairs(tmp_path, train="train.json", val="train.json", test="test.json"))
    assert [category.name for category in splits["test"].categories] == ["cat"]
    assert [entry["category_id"] for entry in splits["test"].ground_truth["annotations"]] == [1]
    assert any("1 of 2 boxes are of classes that training leaves out" in note.text for note in splits["test"].notes)
    write(tmp_path, {"test.json": coco("b.jpg", classes=("bird",))})
    with pytest.raises(InputError, match=r"test.json has no class of .*train.json: it has 'bird'"):
        read_splits(pairs(tmp_path, train="train.json", val="train.json", test="test.json"))


def test_boxes_are_missed_in_validation_and_not_in_test_images(tmp_path):
    write(tmp_path, {"train.json": coco("a.jpg")})
    (tmp_path / "none.json").write_text(json.dumps(json.loads(coco("b.jpg")) | {"annotations": []}))
    splits = read_splits(pairs(tmp_path, train="train.json", val="none.json", test="none.json"))
    settings = defaults()
    settings["data"]["source"] = "digits"
    found = check_annotations(splits, check_params(settings, "defaults").evaluate)
    assert [(finding.code, finding.split) for finding in found if "without" in finding.code] == [
        ("val-without-box", "val")
    ]


ROBOFLOW = {f"{folder}/_annotations.coco.json": coco("a.jpg") for folder in ("train", "valid", "test")}
YOLO = {f"{folder}/labels/a.txt": "0 0.5 0.5 0.2 0.2" for folder in ("train", "valid", "test")}
YOLO |= {"data.yaml": "names: [cat]\ntrain: train/images\nval: valid/images\ntest: test/images\n"}


def images(*folders):
    return {f"{folder}/a.jpg": "" for folder in folders}


@pytest.mark.parametrize(
    ("files", "own"),
    [
        (ROBOFLOW | images("train", "valid", "test"), "test/_annotations.coco.json"),
        (YOLO | images("train/images", "valid/images", "test/images"), "test/labels/a.txt"),
    ],
)
def test_a_set_s_own_test_images_are_found_where_asked(tmp_path, files, own):
    root = write(tmp_path, files)
    assert "test" not in find_layout(section(root), root).saw.replace(str(root), "")
    assert own not in find_layout(section(root), root).annotation_files()
    layout = find_layout(section(root), root, with_test=True)
    assert "test " in layout.saw.replace(str(root), "") and own in layout.annotation_files()
    assert own in {name for names in annotation_files(section(root), root, True).values() for name in names}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {name: text for name, text in ROBOFLOW.items() if "test" not in name} | images("train", "valid"),
            "has no images for test: call their folder or list test, or give them in data.test",
        ),
        (
            {name: text for name, text in ROBOFLOW.items() if "valid" not in name} | images("train", "test"),
            "has no images for test; the images called test are validated on, since no others are for that",
        ),
        (
            ROBOFLOW | images("train", "valid", "test") | {"test/more.json": coco("a.jpg")},
            "several annotation files for test: test/_annotations.coco.json, test/more.json; list in data.test those",
        ),
        ({"a.xml": "<annotation></annotation>"} | images("."), "Pascal VOC's format, whose test set is not read"),
    ],
)
def test_what_is_no_test_set_is_told_before_anything_runs(tmp_path, files, sentence):
    root = write(tmp_path, files)
    with pytest.raises(InputError, match="^(?s:.*)" + sentence.replace(".", r"\.")):
        find_layout(section(root), root, with_test=True)
    assert sentence in "".join(missing_files(section(root), tmp_path, with_test=True))


def test_named_test_images_are_the_users_files_whatever_the_rest_becomes(tmp_path):
    root = write(tmp_path / "root", {"train.json": coco("a.jpg"), "info.json": coco("b.jpg", annotations=True)})
    write(root, {"a.jpg": "a", "b.jpg": "b"})
    made = write(tmp_path / "made", {"annotations/train.json": coco("a.jpg")})
    manifest = made / "manifest.json"
    write_manifest(manifest, (made, root), {"train": [("annotations/train.json", ".")]}, test=[("info.json", ".")])
    sources = load_sources(manifest, (root, root))
    assert sources == {"train": [(made / "annotations/train.json", root)], "test": [(root / "info.json", root)]}
    data = section(root, test=NAMED, train=[{"annotations": "train.json", "images": "."}])
    assert annotation_files(data, root) == {"info.json": ["info.json"], "train.json": ["train.json"]}
    (root / "info.json").unlink()
    assert [f"annotation file {root / 'info.json'} is missing" in text for text in missing_files(data, root)] == [True]


def test_coco_s_test_dev_is_no_validation_set():
    names = ("annotations/image_info_test-dev2017", "test-dev", "dev", "my_test", "valid/test")
    assert [split_of(name) for name in names] == ["test", "test", "val", "test", "test"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"source": "digits"}, "evaluate.split is 'test', but data.test is empty"),
        ({"source": "coco2014", "root": "x"}, "data.test is empty: list {annotations: FILE.json, images: FOLDER}"),
        ({"source": "digits", "test": NAMED}, "source 'digits' has no test images"),
    ],
)
def test_settings_without_test_images_are_refused(data, sentence):
    values = defaults()
    values["data"] |= data
    values["evaluate"]["split"] = "test"
    with pytest.raises(InputError) as caught:
        check_params(values, "params.yaml")
    assert sentence in str(caught.value)
