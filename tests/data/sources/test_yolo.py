"""Data sets in YOLO's format, in the layouts that people have, become what the rest reads."""

import zlib
from collections import Counter

import cv2
import numpy as np
import pytest

from m2det.data.sources.coco import read_split
from m2det.data.sources.manifest import load_sources, write_manifest
from m2det.data.sources.tree import Tree
from m2det.data.sources.yolo import find_yolo
from m2det.data.sources.yolo_labels import read_labels
from m2det.errors import InputError

WIDTH, HEIGHT = 50, 40
PICTURE = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
LABELS = "1 0.5 0.5 0.2 0.5\n"
BOX = [20, 10, 29, 29]  # xyxy, the last pixel inside, of LABELS
YAML = "names: [cat, dog]\n"


def write(root, files):
    """Files by name: an image of its own for a suffix of images, else the text."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = name.endswith((".jpg", ".png", ".JPG"))
        (root / name).write_bytes(PICTURE + name.encode() if image else text.encode())
    return root


def splits_of(root, target, share=0.0, outside=False):
    converted = find_yolo(Tree(root, outside)).convert(target, share)
    write_manifest(target / "manifest.json", (target, root), converted.pairs, outside=outside)
    sources = load_sources(target / "manifest.json", (root, root), outside)
    return {name: read_split(pairs, outside) for name, pairs in sources.items()}


def names(root, target, share=0.0, outside=False):
    splits = splits_of(root, target, share, outside)
    return {name: [record.file_name for record in split.records] for name, split in splits.items()}


def dataset(folders, labels="labels", images="images"):
    """An image and a label file for each of the folders, and one image without."""
    found = {}
    for folder in folders:
        where = [folder.replace("*", each).strip("/") for each in (images, labels)]
        found |= {f"{where[0]}/a b.jpg": "", f"{where[1]}/a b.txt": LABELS, f"{where[0]}/empty.png": ""}
    return found


LISTS = {"lists/train.txt": "./../images/a.jpg\n\nimages/b.jpg\n", "lists/val.txt": "/content/my/images/c.jpg\r\n"}
FLAT = {f"images/{n}.jpg": "" for n in "abc"} | {f"labels/{n}.txt": LABELS for n in "abc"}
TRAIN_VAL = dataset(["*/train", "*/val"])
LAYOUTS = {
    "images/train, labels/train": (TRAIN_VAL, "path: .\ntrain: images/train\nval: images/val\n"),
    "path of another machine": (TRAIN_VAL, "path: ../datasets/mine\ntrain: images/train\nval: images/val\n"),
    "an absolute path elsewhere": (TRAIN_VAL, "path: /content/mine\ntrain: images/train\nval: images/val\n"),
    "no folders named": (TRAIN_VAL, ""),
    "Roboflow": (
        dataset(["train/*", "valid/*", "test/*"]),
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nroboflow: {version: 1}\n",
    ),
    "a list of folders": (
        dataset(["one/*", "two/*", "three/*"]),
        "train:\n- one/images\n- two/images\nval: [three/images]\n",
    ),
    "text lists": (FLAT | LISTS, "train: lists/train.txt\nval: lists/val.txt\n"),
    "labels beside images": (dataset(["train", "val"]), "train: train\nval: val\n"),
    "test in want of val": (dataset(["*/train", "*/test"]), "train: images/train\nval:\ntest: images/test\n"),
    "a mapping of names": (TRAIN_VAL, "names:\n  0: cat\n  1: dog\ntrain: images/train\nval: images/val\n"),
}
FOUND = {
    "Roboflow": ["train/images/a b.jpg", "train/images/empty.png"],
    "a list of folders": ["one/images/a b.jpg", "one/images/empty.png", "two/images/a b.jpg", "two/images/empty.png"],
    "text lists": ["images/a.jpg", "images/b.jpg"],
    "labels beside images": ["train/a b.jpg", "train/empty.png"],
}


@pytest.mark.parametrize("way", LAYOUTS)
def test_a_layout_is_read(tmp_path, way):
    files, yaml = LAYOUTS[way]
    root = write(tmp_path / "root", files | {"data.yaml": yaml if "names" in yaml else YAML + yaml})
    splits = splits_of(root, tmp_path / "data")
    train, val = splits["train"], splits["val"]
    assert [r.file_name for r in train.records] == FOUND.get(way, ["images/train/a b.jpg", "images/train/empty.png"])
    assert val.records and not {r.file_name for r in val.records} & {r.file_name for r in train.records}
    for split in splits.values():
        assert [category.name for category in split.categories] == ["cat", "dog"]
        for record in split.records:
            assert (record.width, record.height) == (WIDTH, HEIGHT)
            objects = [] if "empty" in record.file_name else [BOX]
            assert record.boxes.tolist() == objects and record.labels.tolist() == [2] * len(objects)
        assert split.clipped == 0 and not sum(split.dropped.values())


def test_classes_txt_names_the_classes_where_no_yaml_does(tmp_path):
    root = write(tmp_path / "root", FLAT | {"classes.txt": "cat\ndog\n"})
    split = splits_of(root, tmp_path / "data", 0.3)["train"]
    assert [category.name for category in split.categories] == ["cat", "dog"] and len(split.records) == 2
    (root / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"neither data\.yaml nor classes\.txt.*write a data\.yaml with `names"):
        find_yolo(Tree(root))


def test_outlines_become_their_boxes_and_are_told(tmp_path):
    outline = "0 0.2 0.1 0.4 0.1 0.4 0.35 0.3 0.5\n"
    root = write(tmp_path / "root", TRAIN_VAL | {"data.yaml": YAML, "labels/train/a b.txt": LABELS + outline})
    notes = find_yolo(Tree(root)).convert(tmp_path / "data", 0).notes
    assert [note.text for note in notes if note.code == "outlines"] == ["1 objects are outlines: their boxes are used"]
    boxes = splits_of(root, tmp_path / "data")["train"].records[0].boxes
    assert boxes.tolist() == [BOX, [10, 4, 19, 19]]


def test_keypoints_are_left_out_and_told(tmp_path):
    pose = "1 0.5 0.5 0.2 0.5 0.5 0.5 2 0.6 0.6 0\n"
    yaml = YAML + "kpt_shape: [2, 3]\n"
    root = write(
        tmp_path / "root", TRAIN_VAL | {"data.yaml": yaml, "labels/train/a b.txt": pose, "labels/val/a b.txt": pose}
    )
    assert splits_of(root, tmp_path / "data")["train"].records[0].boxes.tolist() == [BOX]
    notes = find_yolo(Tree(root)).convert(tmp_path / "data", 0).notes
    assert "the keypoints of 2 objects are left out" in [note.text for note in notes]


@pytest.mark.parametrize("orientation", [3, 6])
def test_sizes_are_those_of_the_upright_photo(tmp_path, orientation):
    """As ultralytics reads them: its labels are shares of what a viewer shows."""
    root = write(tmp_path / "root", TRAIN_VAL | {"data.yaml": YAML})
    assert find_yolo(Tree(root)).convert(tmp_path / "before", 0).upright, "a square photo needs no question"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0" % orientation
    turned = PICTURE[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + PICTURE[2:]
    (root / "images/train/a b.jpg").write_bytes(turned)
    record = splits_of(root, tmp_path / "data")["train"].records[0]
    assert (record.width, record.height) == ((40, 50) if orientation == 6 else (50, 40))
    assert record.boxes.tolist() == [[16, 12.5, 23, 36.5] if orientation == 6 else BOX]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "1 320 200 50 60",
            r"line 2: 320 is not between 0 and 1; YOLO's numbers are shares .*: divide pixels by these",
        ),
        ("1 0.5 0.5 0.2 1.02", "line 2: 1.02 is not between 0 and 1"),
        ("1 0.5 0.5 -0.2 0.5", "line 2: -0.2 is not between 0 and 1"),
        ("2 0.5 0.5 0.2 0.5", r"line 2: class 2 has no name; data\.yaml names 2, 0 to 1"),
        ("0.5 0.5 0.5 0.2 0.5", "line 2: class 0.5 has no name"),
        ("1 0.5 0.5 0.2", r"line 2 has 4 columns; a line is `class x y w h`"),
        ("1 0.5 0.5 0.2 0.5 0.93", r"line 2 has 6 columns; .* a score, as in detections, is to be removed"),
        ("1 0.5 0.5 nan 0.5", "line 2: 'nan' is no number"),
        ("1 0,5 0,5 0,2 0,5", "line 2: '0,5' is no number"),
        ("dog 0.5 0.5 0.2 0.5", "line 2: 'dog' is no number"),
        ("1 1e999 0.5 0.2 0.5", "line 2: inf is not between 0 and 1"),
        ("\x00", r"line 2: '\\x00' is no number"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, sentence):
    root = write(tmp_path / "root", TRAIN_VAL | {"data.yaml": YAML, "labels/train/a b.txt": LABELS + line + "\n"})
    with pytest.raises(InputError, match=rf"labels/train/a b\.txt, {sentence}"):
        splits_of(root, tmp_path / "data")


def test_what_rounding_exceeds_is_cut():
    lines = b"\xef\xbb\xbf0 0.5 0.5 1.0000001 1.005\r\n\r\n0.0 -0.000001 .5 0.2 5e-1"
    first, second = read_labels(lines, "a.txt", [0], 0, Counter())
    assert first == (0, 0, 0, 1, 1) and second == (0, -0.1, 0.25, 0.1, 0.75)


@pytest.mark.parametrize(
    ("yaml", "sentence"),
    [
        ("names: [cat, dog]\nnc: 3\n", "names 2 classes, but its nc is 3"),
        ("names: cat\n", "names must be a list, or a mapping"),
        ("names: []\n", "names must be a list, or a mapping"),
        ("names: [cat, cat]\n", "names 2 classes 'cat'"),
        ("names: [cat, [dog]]\n", r"class 1 is called .*, which is no name"),
        ("names: [cat, '']\n", "class 1 is called '', which is empty"),
        ("names: {a: cat, b: dog}\n", "names has the key 'a'; classes are numbered from 0"),
        ("names: [cat, dog]\ntrain: images/training\n", r"train is 'images/training', but .* has no images/training"),
        ("names: [cat, dog]\npath: [a, b]\n", "path is a list; give one folder"),
        ("names: [cat, dog]\ntrain: 5\n", "train is '5', no path; give a folder of images"),
        ("names: [cat, dog]\ntrain: [images/train, [x]]\n", "no path; give a folder of images"),
        ("names: [cat, dog]\nval: images/val\n", "has images for val only; training needs some"),
        ("names: [cat, dog]\nkpt_shape: [17]\n", r"kpt_shape is \[17\]; it must be \[points, numbers of each\]"),
        ("names: &a [cat, dog]\nmore: *a\n", "anchors"),
        ("names: [cat, dog\n", "is not valid YAML"),
        ("names: [cat, dog]\ntrain: images/bad.txt\n", r"bad\.txt, line 2: 'nowhere\.jpg' is not below"),
    ],
)
def test_a_wrong_data_yaml_is_named(tmp_path, yaml, sentence):
    lists = {"images/bad.txt": "images/train/a b.jpg\nnowhere.jpg\n"}
    root = write(tmp_path / "root", TRAIN_VAL | lists | {"data.yaml": yaml})
    with pytest.raises(InputError, match=rf"(data\.yaml|bad\.txt|root).*{sentence}") as refused:
        find_yolo(Tree(root)).convert(tmp_path / "data", 0.5)
    assert str(root) in str(refused.value)


ELSEWHERE = {
    "a folder": r"data\.yaml: train is '.*', which leads out of .*root; put the images there, or",
    "a list": r"list\.txt, line 1: '.*' is not below ",
    "a label": r"a b\.txt leads to .*, out of the image folder",
    "a link to a folder": r"images/train leads to .*/moved, out of .*/root; put the images there, or",
}


@pytest.mark.parametrize("way", ELSEWHERE)
def test_files_elsewhere_are_not_read_unless_allowed(tmp_path, way):
    """A data.yaml from somebody else could otherwise carry any file of this machine into the cache."""
    other = write(tmp_path / "other", FLAT)
    yaml = {"a folder": f"train: {other}/images", "a list": "train: list.txt"}.get(way, "train: images/train")
    root = write(tmp_path / "root", TRAIN_VAL | {"data.yaml": f"{YAML}{yaml}\nval: images/val\n"})
    write(root, {"list.txt": f"{other}/images/a.jpg\n../other/images/b.jpg\n"})
    if way == "a label":
        (root / "labels/train/a b.txt").unlink()
        (root / "labels/train/a b.txt").symlink_to(other / "labels/a.txt")
    elif way == "a link to a folder":
        (root / "images/train").rename(tmp_path / "moved")
        (root / "images/train").symlink_to(tmp_path / "moved")
    with pytest.raises(InputError, match=ELSEWHERE[way]):
        splits_of(root, tmp_path / "data")
    found = names(root, tmp_path / "data", outside=True)["train"]
    assert len(found) == {"a folder": 3}.get(way, 2) and all("a" in name for name in found[:1])


def test_images_that_have_no_labels_anywhere_are_a_wrong_layout(tmp_path):
    files = {name: text for name, text in TRAIN_VAL.items() if name.startswith("images")}
    root = write(tmp_path / "root", files | {"data.yaml": YAML, "labels/a b.txt": LABELS})
    with pytest.raises(
        InputError, match=r"none of the 4 images .* images/train/a b\.jpg would have labels/train/a b\.txt"
    ):
        splits_of(root, tmp_path / "data")


def test_the_files_that_make_a_difference_are_listed(tmp_path):
    root = write(tmp_path / "root", FLAT | LISTS | {"data.yaml": YAML + "train: lists/train.txt\nval: lists/val.txt\n"})
    expected = ["data.yaml", *(f"labels/{n}.txt" for n in "abc"), "lists/train.txt", "lists/val.txt"]
    assert find_yolo(Tree(root)).annotation_files() == expected


def test_all_wrong_files_are_told_at_once(tmp_path):
    root = write(tmp_path / "root", TRAIN_VAL | {"data.yaml": YAML, "labels/train/a b.txt": "9 0 0 0 0"})
    (root / "images/val/empty.png").write_bytes(b"no picture")
    sentence = r"^2 files are wrong: .*a b\.txt, line 1: class 9 .*; .*val/empty\.png cannot be decoded"
    with pytest.raises(InputError, match=sentence):
        splits_of(root, tmp_path / "data")


def test_label_files_without_an_image_are_told(tmp_path):
    files = {"data.yaml": YAML, "labels/train/lost.txt": LABELS, "labels/train/classes.txt": "cat\ndog\n"}
    root = write(tmp_path / "root", TRAIN_VAL | files)
    notes = find_yolo(Tree(root)).convert(tmp_path / "data", 0).notes
    [note] = [note for note in notes if note.code == "labels-without-image"]
    assert note.count == 1 and "labels/train/lost.txt" in note.text


def test_label_files_beside_images_without_an_image_are_told(tmp_path):
    """As in a folder called labels; a README beside them is none, and one with an image elsewhere is one, too."""
    files = dataset(["train", "val"]) | {
        "data.yaml": YAML + "train: train\nval: val\n",
        "train/lost.txt": LABELS,
        "train/README.txt": "made by 2 people\n",
        "val/classes.txt": "cat\ndog\n",
        "labels/a b.txt": LABELS,
    }
    root = write(tmp_path / "root", files)
    notes = find_yolo(Tree(root)).convert(tmp_path / "data", 0).notes
    [note] = [note for note in notes if note.code == "labels-without-image"]
    assert [example.removeprefix(f"{root}/") for example in note.examples] == [
        "labels/a b.txt has no image of its name",
        "train/lost.txt has no image of its name",
    ]


@pytest.mark.parametrize(
    ("image", "label", "sentence"),
    [
        ("IMG_1.JPG", "img_1.txt", r"img_1\.txt differs in upper and lower case from 'labels/train/IMG_1\.txt'"),
        ("x.jpg", "x.TXT", "x\\.TXT differs in upper and lower case from"),
        ("cafe\u0301.jpg", "caf\u00e9.txt", r"differs in Unicode form .* from 'labels/train/cafe\\u0301\.txt'"),
    ],
)
def test_a_label_file_that_nearly_has_an_images_name_is_an_error(tmp_path, image, label, sentence):
    """The image would be trained on as one without objects."""
    pair = {f"images/train/{image}": "", f"labels/train/{label}": LABELS}
    for files in (TRAIN_VAL | pair, pair):
        root = write(tmp_path / f"root{len(files)}", files | {"data.yaml": YAML})
        with pytest.raises(InputError, match=f"^[^;]*{sentence}.*rename one of them"):
            find_yolo(Tree(root)).convert(tmp_path / "data", 0.5)


def test_a_png_is_upright_whose_orientation_stands_behind_its_pixels(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (300, 600, 3), np.uint8)  # larger than what is read at first
    png = cv2.imencode(".png", picture)[1].tobytes()
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    chunk = len(exif).to_bytes(4, "big") + b"eXIf" + exif + zlib.crc32(b"eXIf" + exif).to_bytes(4, "big")
    root = write(tmp_path / "root", TRAIN_VAL | {"data.yaml": YAML})
    (root / "images/train/empty.png").write_bytes(png[:-12] + chunk + png[-12:])
    records = splits_of(root, tmp_path / "data")["train"].records
    assert [(r.width, r.height) for r in records if r.file_name.endswith("empty.png")] == [(300, 600)]


def test_images_that_cannot_be_read_are_left_out_where_asked(tmp_path):
    root = write(tmp_path / "root", TRAIN_VAL | {"data.yaml": YAML})
    (root / "images/train/empty.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.png cannot be decoded"):
        find_yolo(Tree(root)).convert(tmp_path / "data", 0)
    converted = find_yolo(Tree(root)).convert(tmp_path / "data", 0, skip=True)
    [note] = [note for note in converted.notes if note.code == "skipped-images"]
    assert note.count == 1 and "empty.png cannot be decoded" in note.examples[0]
    [(file, _)] = converted.pairs["train"]
    assert "empty.png" not in (tmp_path / "data" / file).read_text()
    (root / "labels/train/a b.txt").write_text("9 0.5 0.5 0.2 0.5\n")  # a wrong label is no bad image
    with pytest.raises(InputError, match="class 9 has no name"):
        find_yolo(Tree(root)).convert(tmp_path / "data", 0, skip=True)
