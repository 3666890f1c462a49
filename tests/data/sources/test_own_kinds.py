"""What people's own data look like: each kind is read as meant, or told as what it is; none is wrong in silence."""

import gzip
import json

import pytest

from m2det.config import DataParams, EvaluateParams
from m2det.config.schema import defaults
from m2det.data.checks.files import find_images
from m2det.data.checks.images import check_missing
from m2det.data.checks.run import check_annotations
from m2det.data.checks.splits import check_repeats
from m2det.data.packed.cache import require_boxes
from m2det.data.sources.coco import read_split, read_splits
from m2det.data.sources.detect_format import find_layout
from m2det.data.sources.manifest import write_manifest
from m2det.errors import InputError
from tests.data.sources.test_detect_format import PICTURE, XML, coco
from tests.data.sources.test_yolo import LABELS, TRAIN_VAL, YAML

SPLITS = "train: {0}images/train\nval: {0}images/val\n"


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = name.endswith((".jpg", ".png", ".jfif", ".jpe"))
        data = PICTURE + name.encode() if image else content if isinstance(content, bytes) else content.encode()
        (root / name).write_bytes(data)
    return root


def converted(root, target, share=0.4):
    """The splits, and the texts of the notes, as the stages `data` and `pack` get them."""
    layout = find_layout(DataParams.model_validate(defaults()["data"] | {"source": "auto", "root": str(root)}), root)
    target.mkdir(exist_ok=True)
    made = layout.convert(target, share)
    roots = (target if made.made else root, root)
    write_manifest(target / "manifest.json", roots, made.pairs)
    pairs = {name: [(roots[0] / file, root / folder) for file, folder in each] for name, each in made.pairs.items()}
    return read_splits(pairs), [note.text for note in made.notes]


def findings(splits):
    evaluate = EvaluateParams.model_validate(defaults()["evaluate"])
    return {finding.code: finding.message for finding in check_annotations(splits, evaluate)}


ELSEWHERE = {
    "another machine": "/content/mine/",
    "Windows": "C:\\mine\\",
    "two folders up": "../../",
    "the root's own name": "../mine/",
}


@pytest.mark.parametrize("way", ELSEWHERE)
def test_folders_of_another_machine_are_found_by_the_end_of_their_path_and_told(tmp_path, way):
    text = SPLITS.format(ELSEWHERE[way])
    text = text.replace("/", "\\") if way == "Windows" else text
    root = write(tmp_path / "root", TRAIN_VAL | {"data.yaml": YAML + text})
    splits, notes = converted(root, tmp_path / "data")
    assert [r.file_name for r in splits["val"].records] == ["images/val/a b.jpg", "images/val/empty.png"]
    assert [note for note in notes if note.endswith("which is not here: 'images/train' is used")], notes


YAMLS = {
    "BOM and CRLF": ("data.yaml", "\ufeff" + (YAML + SPLITS.format("")).replace("\n", "\r\n")),
    "another case": ("Data.YAML", YAML + SPLITS.format("")),
    "nc as text": ("data.yaml", YAML + "nc: '2'\n" + SPLITS.format("")),
    "backslashes and spaces": ("data.yaml", YAML + "train: 'images\\train '\nval: images\\val\n"),
    "test images that an export has not": ("data.yaml", YAML + SPLITS.format("") + "test: ../test/images\n"),
}


@pytest.mark.parametrize("way", YAMLS)
def test_ways_to_write_a_data_yaml(tmp_path, way):
    name, text = YAMLS[way]
    splits, notes = converted(write(tmp_path / "root", TRAIN_VAL | {name: text}), tmp_path / "data")
    assert {name: len(split.records) for name, split in splits.items()} == {"train": 2, "val": 2}
    assert not [note for note in notes if "not here" in note]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {"data.yaml": YAML + "train: labels/train\n"},
            r"train is 'labels/train', which has no images; name the folder ",
        ),
        ({"data.yaml": YAML + "train: images/train\nval: labels\n"}, r"val is 'labels', .* or leave the key out"),
        ({"data.yaml": "nc: 2\n"}, r"has no `names:` at the beginning of a line of data\.yaml, and no classes\.txt"),
        ({"data.yaml": YAML, "labels/train/a b.txt": b"\xff\xfe\x00\xd8"}, r"a b\.txt is no text .*save it as UTF-8"),
    ],
)
def test_what_a_data_set_of_yolo_lacks_is_said(tmp_path, files, sentence):
    with pytest.raises(InputError, match=sentence):
        converted(write(tmp_path / "root", TRAIN_VAL | files), tmp_path / "data")


def test_labels_in_utf16_as_windows_writes_them(tmp_path):
    files = {"data.yaml": YAML, "labels/train/a b.txt": LABELS.replace("\n", "\r\n").encode("utf-16")}
    splits, _ = converted(write(tmp_path / "root", TRAIN_VAL | files), tmp_path / "data")
    assert [record.labels.tolist() for record in splits["train"].records] == [[2], []]


def test_corners_for_centers_are_a_doubt(tmp_path):
    corners = "1 0.4 0.25 0.6 0.75\n0 0.7 0.7 0.9 0.95\n"
    files = {f"labels/{split}/a b.txt": corners for split in ("train", "val")}
    _, notes = converted(write(tmp_path / "root", TRAIN_VAL | files | {"data.yaml": YAML}), tmp_path / "data")
    [doubt] = [note for note in notes if "x1 y1 x2 y2" in note]
    assert doubt.startswith("4 of 4 boxes reach over an edge of their image; as x1 y1 x2 y2 all lie inside")
    _, notes = converted(write(tmp_path / "plain", TRAIN_VAL | {"data.yaml": YAML}), tmp_path / "data")
    assert not [note for note in notes if "x1 y1 x2 y2" in note]


def xml(name="cat", size="<width>50</width><height>40</height>", head="", difficult="0"):
    body = XML.replace("cat", name).replace("<object>", f"<size>{size}</size><object>")
    return head + body.replace("</name>", f"</name><difficult>{difficult}</difficult>")


def voc(content, **lists):
    files = {f"JPEGImages/{n}.jpg": "" for n in "abc"} | {f"Annotations/{n}.xml": content for n in "abc"}
    return files | {f"{name.replace('__', '/')}.txt": text for name, text in lists.items()}


XMLS = {
    "sizes with decimals": xml(size="<width>50.0</width><height>40.</height>"),
    "empty sizes": xml(size="<width></width><height/>"),
    "a line before the declaration": xml(head="\r\n<?xml version='1.0'?>"),
    "BOM": "\ufeff" + xml(),
    "GB2312": xml(head='<?xml version="1.0" encoding="GB2312"?>').replace("cat", "\u732b").encode("gb2312"),
    "Shift-JIS": xml(head="<?xml version='1.0' encoding='Shift_JIS'?>").replace("cat", "\u732b").encode("shift_jis"),
}


@pytest.mark.parametrize("way", XMLS)
def test_ways_to_write_an_xml_file(tmp_path, way):
    splits, _ = converted(write(tmp_path / "root", voc(XMLS[way])), tmp_path / "data")
    names = [category.name for category in splits["train"].categories]
    assert names == (["\u732b"] if way in ("GB2312", "Shift-JIS") else ["cat"])
    for split in splits.values():
        for record in split.records:
            assert (record.width, record.height) == (50, 40) and record.boxes.tolist() == [[0, 0, 8, 8]]


LISTS = {
    "beside Annotations": {"train": "a\nb\n", "val": "\ufeffc\r\n"},
    "with paths": {"ImageSets__Main__train": "JPEGImages/a.jpg\nJPEGImages/b.jpg\n", "ImageSets__Main__val": "./x/c"},
}


@pytest.mark.parametrize("way", LISTS)
def test_lists_of_ones_own_are_used(tmp_path, way):
    splits, _ = converted(write(tmp_path / "root", voc(xml(), **LISTS[way])), tmp_path / "data")
    found = {name: [record.file_name for record in split.records] for name, split in splits.items()}
    assert found == {"train": ["JPEGImages/a.jpg", "JPEGImages/b.jpg"], "val": ["JPEGImages/c.jpg"]}


@pytest.mark.parametrize("way", ["crowds", "difficult", "true"])
def test_objects_that_training_leaves_out_are_nothing_to_learn_from(tmp_path, way):
    crowds = coco("a.jpg", "b.jpg").replace('"bbox"', '"iscrowd": 1, "bbox"')
    files = {"all.json": crowds, "a.jpg": "", "b.jpg": ""}
    files = files if way == "crowds" else voc(xml(difficult="1" if way == "difficult" else "true"))
    splits, _ = converted(write(tmp_path / "root", files), tmp_path / "data")
    with pytest.raises(InputError, match=r"no usable box.*; \d are crowds \(iscrowd 1\) or marked difficult"):
        require_boxes(splits["train"])


@pytest.mark.parametrize(
    ("named", "there", "words"),
    [
        ("A.jpg", "photos/a.jpg", "differ in upper and lower case: 'A.jpg' is there as 'photos/a.jpg'"),
        ("caf\u00e9.jpg", "photos/cafe\u0301.jpg", "differ in Unicode form"),
        ("x/A.jpg", "photos/a.jpg", "differ in folders before the name and upper and lower case"),
        ("1a2b3c4d-a.jpg", "photos/a.jpg", "differ in what a label tool has added"),
        ("a_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "a.jpg", "differ in what a label tool has added"),
        ("a.jpg ", "a.jpg", "differ in spaces at an end"),
        ("a", "photos/a.jpg", "differ in the suffix"),
    ],
)
def test_what_differs_is_said_though_the_folder_is_not_known(tmp_path, named, there, words):
    root = write(tmp_path / "root", {"all.json": coco(named), there: "", "other.jpg": ""})
    with pytest.raises(InputError) as refused:
        converted(root, tmp_path / "data")
    assert words in str(refused.value)


def test_an_xml_file_is_no_image_of_another_suffix(tmp_path):
    files = {name: text for name, text in voc(xml()).items() if name != "JPEGImages/a.jpg"}
    with pytest.raises(InputError, match=r"a\.xml has no image: .* has no a\.jpg; put the image there, or remove"):
        converted(write(tmp_path / "root", files), tmp_path / "data")


@pytest.mark.parametrize("suffix", ["jfif", "jpe"])
def test_other_suffixes_of_jpegs(tmp_path, suffix):
    names = [f"{n}.{suffix}" for n in "ab"]
    root = write(tmp_path / "coco", {"all.json": coco(*names), **{f"photos/{name}": "" for name in names}})
    assert len(converted(root, tmp_path / "data")[0]["train"].records) == 1
    labels = {f"labels/{n}.txt": LABELS for n in "ab"}
    root = write(tmp_path / "yolo", {"data.yaml": YAML, **{f"images/{name}": "" for name in names}} | labels)
    assert len(converted(root, tmp_path / "data")[0]["train"].records) == 1


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("all.json", b"", "all.json is no JSON, but empty: copy or export it again"),
        ("all.json", gzip.compress(b"{}"), "all.json is no JSON, but compressed by gzip: unpack it"),
        ("export.zip", b"PK\3\4", "unpack export.zip if the data set is in it"),
    ],
)
def test_files_that_are_no_data_set_are_told_as_what_they_are(tmp_path, name, data, words):
    with pytest.raises(InputError) as refused:
        converted(write(tmp_path / "root", {name: data, "a.jpg": ""}), tmp_path / "data")
    assert words in str(refused.value)


def with_categories(categories):
    content = json.loads(coco("a.jpg", "b.jpg"))
    content["categories"] = [{"id": i, "name": n, "supercategory": s} for i, n, s in categories]
    return json.dumps(content)


def test_a_root_category_that_is_called_as_its_class_is_left_out(tmp_path):
    """Roboflow's, of a project that has its class's name; two classes of one name stay an error."""
    (tmp_path / "a.json").write_text(with_categories([(0, "cat", "none"), (1, "cat", "cat")]))
    split = read_split([(tmp_path / "a.json", tmp_path)])
    assert [(category.id, category.name) for category in split.categories] == [(1, "cat")]
    assert any("category 0 has no box: it is only the supercategory of one" in note.text for note in split.notes)
    (tmp_path / "a.json").write_text(with_categories([(0, "cat", "none"), (1, "cat", "none")]))
    with pytest.raises(InputError, match="category name 'cat' occurs twice"):
        read_split([(tmp_path / "a.json", tmp_path)])


def test_names_of_classes_that_differ_in_how_they_are_written_are_a_doubt(tmp_path):
    files = {"train.json": coco("a.jpg"), "val.json": coco("b.jpg").replace('"cat"', '"Cat "')}
    for name, text in files.items():
        content = json.loads(text)
        content["categories"].append({"id": 2, "name": "dog"})
        (tmp_path / name).write_text(json.dumps(content))
    found = findings(read_splits({name: [(tmp_path / f"{name}.json", tmp_path)] for name in ("train", "val")}))
    assert '"cat", "Cat "' in found["similar-classes"]
    assert 'data.classes: [{"cat": ["cat", "Cat "]}]' in found["similar-classes"]


def test_images_that_two_exports_share_are_told_by_their_paths(tmp_path):
    """Before any image is opened: each entry lacks the other's objects, or is validated on what was trained on."""
    for name in "abv":
        (tmp_path / f"{name}.json").write_text(coco("1.jpg", "2.jpg"))
    pairs = {
        "train": [(tmp_path / f"{n}.json", tmp_path / "x") for n in "ab"],
        "val": [(tmp_path / "v.json", tmp_path / "x")],
    }
    found = {finding.code: finding.count for finding in check_repeats(read_splits(pairs), {})}
    assert found == {"image-repeated": 2, "image-in-both": 2}


def test_notes_of_a_file_whose_validation_set_is_cut_are_told(tmp_path):
    text = coco("a.jpg", "b.jpg").replace('"bbox"', '"area": 0, "bbox"')
    _, notes = converted(write(tmp_path / "root", {"all.json": text, "a.jpg": "", "b.jpg": ""}), tmp_path / "data")
    assert any("all.json: 2 of 2 annotations have an area of 0 or less" in note for note in notes)


def test_the_check_says_what_missing_names_differ_in(tmp_path):
    root = write(tmp_path, {"all.json": coco("caf\u00e9.jpg", "B.jpg"), "x/cafe\u0301.jpg": "", "x/b.jpg": ""})
    files = find_images(read_split([(root / "all.json", root / "x")]))
    [finding] = check_missing(files.missing, 2, "train")
    for words in (
        "2 of 2 images do not exist; 1 differ in Unicode form",
        "1 differ in upper and lower case: 'B.jpg' is",
    ):
        assert words in finding.message


@pytest.mark.parametrize("name", ["data.yaml", "Annotations/a.xml", "labels"])
def test_other_formats_given_for_json_are_told_how_they_are_read(tmp_path, name):
    root = write(tmp_path, {"data.yaml": YAML, "Annotations/a.xml": XML, "labels/a.txt": LABELS})
    with pytest.raises(
        InputError, match=rf"{name} is no JSON in COCO's format; for a folder in YOLO's or .* to auto in"
    ):
        read_split([(root / name, root)])
