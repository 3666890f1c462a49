"""Pascal VOC, as its development kit lays it out, and trees of one's own become what the rest reads."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from m2det.config import check_params
from m2det.config.recipes import read_recipe
from m2det.config.schema import defaults
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.data.sources.manifest import load_sources, write_manifest
from m2det.data.sources.tree import Tree
from m2det.data.sources.voc import find_voc
from m2det.data.sources.voc_kit import CLASSES
from m2det.errors import InputError
from m2det.files.tensors import save_tensors
from m2det.model import build_model
from m2det.train import train

OBJECT = """<object><name>{}</name><pose>Left</pose><truncated>1</truncated><difficult>{}</difficult>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""
IMAGE = "<annotation><filename>x</filename><size><width>50</width><height>40</height></size>{}</annotation>"
SETS = {
    ("VOC2007", "trainval"): ["000005"],
    ("VOC2007", "test"): ["000001"],
    ("VOC2012", "trainval"): ["2008_000002", "2007_000027"],
}
PICTURE = cv2.imencode(".jpg", np.zeros((40, 50, 3), np.uint8))[1].tobytes()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "VOCdevkit"
    for (year, name), images in SETS.items():
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / year / folder).mkdir(parents=True, exist_ok=True)
        (root / year / f"ImageSets/Main/{name}.txt").write_text("\n".join(images) + "\n")
        for image in images:
            objects = OBJECT.format("dog", 0, 1, 1, 50, 40) + OBJECT.format("person", 1, "10.5", 2, 20, 30)
            (root / year / f"Annotations/{image}.xml").write_text(IMAGE.format(objects))
            (root / year / f"JPEGImages/{image}.jpg").write_bytes(PICTURE)
    return root


def convert(root, target, share=0.0):
    return find_voc(Tree(root)).convert(target, share)


def splits_of(root, target, share=0.0):
    """The splits as training gets them, through the manifest."""
    converted = convert(root, target, share)
    write_manifest(target / "manifest.json", (target, root), converted.pairs)
    return {name: read_split(files) for name, files in load_sources(target / "manifest.json", (root, root)).items()}


def test_voc_is_read_like_coco(root, tmp_path):
    target = tmp_path / "data"
    train, val = splits_of(root, target).values()
    assert str(tmp_path) not in (target / "manifest.json").read_text()
    assert [record.image_id for record in train.records] == [5, 2007000027, 2008000002]
    assert [record.image_id for record in val.records] == [1]
    assert [category.name for category in train.categories] == list(CLASSES) == sorted(CLASSES) and len(CLASSES) == 20
    for record in (*train.records, *val.records):
        assert record.path.is_file()
        assert record.boxes.tolist() == [[0, 0, 49, 39], [9.5, 1, 19, 29]]
        assert [CLASSES[label - 1] for label in record.labels] == ["dog", "person"]
        assert record.iscrowd.tolist() == [False, True], "difficult: not trained on"
    assert [a["iscrowd"] for a in val.ground_truth["annotations"]] == [0, 0], "a crowd would hide false alarms"
    assert [a["voc_difficult"] for a in val.ground_truth["annotations"]] == [0, 1]
    assert train.clipped == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["voc320-1p", "voc512-1p", "voc512-8p"])
def test_a_recipe_for_voc_trains(root, tmp_path, name, caplog):
    """Two steps of two images, with a small network; finetuning starts from 80 classes, keeps all but their heads."""
    target, cache, backbone = tmp_path / "data", tmp_path / "cache", tmp_path / "backbone.safetensors"
    cache.mkdir()
    splits = splits_of(root, target)
    entries = {key: write_split(cache, key, split) for key, split in splits.items()}
    finish_cache(cache, splits["train"].categories, entries)
    values = read_recipe(name)[1]
    whole = name == "voc512-1p"
    assert whole == (values["weights"]["source"] == "checkpoint")
    state = build_model("m2det-tiny", 80, sfam=False).state_dict()
    kept = {key: value.clone() for key, value in state.items() if whole or key.startswith("base.")}
    save_tensors(backbone, kept, {})
    values["data"] = defaults()["data"] | values["data"] | {"root": str(root)}
    values["model"]["name"] = "m2det-tiny"
    values["run"] |= {"device": "cpu", "processes": 1, "workers": 0}
    values["train"] |= {"batch_size": 2, "microbatch": 2, "max_steps": 2}
    caplog.set_level("INFO")
    result = train(check_params(values, name), cache, backbone, tmp_path / "run", tmp_path / "log.txt")
    assert result.steps == 2 and result.rows[-1]["loss_conf"] > 0
    assert result.model.eval()(torch.zeros(1, 3, 96, 96))["conf"].shape[2] == 1 + len(CLASSES)
    fresh = re.findall(r"random initialization: (\w+)", caplog.text)
    assert set(fresh) == ({"conf"} if whole else set())


def test_a_missing_year_is_told(root, tmp_path):
    (root / "VOC2012/ImageSets/Main/trainval.txt").unlink()
    converted = convert(root, tmp_path)
    assert converted.pairs["train"] == [("annotations/VOC2007_trainval.json", "VOC2007/JPEGImages")]
    assert [note.text for note in converted.notes] == [
        "VOC2012/ImageSets/Main/trainval.txt is missing: train is made without it"
    ]


def own(root: Path, names: dict[str, str], **lists: str) -> Path:
    """A tree with an image and an XML file for each name, that of a helmet; both relative to root."""
    for xml, image in names.items():
        picture = PICTURE + image.encode()  # each another one
        for name, data in ((xml, IMAGE.format(OBJECT.format("helmet", 0, 1, 1, 20, 20)).encode()), (image, picture)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    for name, text in lists.items():
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{name}.txt").write_text(text)
    return root


def images(root, target, share=0.0):
    return {
        name: [record.file_name for record in split.records] for name, split in splits_of(root, target, share).items()
    }


KIT = {f"Annotations/{n}.xml": f"JPEGImages/{n}.jpg" for n in ("IMG 1", "b", "c.d", "e")}
TREES = {
    "lists of any names": (KIT, {"my_train": "IMG 1\nb\n", "my_valid": "c.d\r\n"}, "IMG 1 b", "c.d"),
    "a test list in want of another": (KIT, {"trainval": "IMG 1\nb\ne\n", "test": "c.d"}, "IMG 1 b e", "c.d"),
    "trainval holds val": (KIT, {"trainval": "IMG 1\nb\nc.d\n", "val": "c.d"}, "IMG 1 b", "c.d"),
    "all four lists": (KIT, {"trainval": "b\ne", "train": "b", "val": "e", "test": "c.d"}, "b", "e"),
    "lists of one class": (KIT, {"train": "b\n", "helmet_train": "e  1\nb -1\n", "val": "e"}, "b", "e"),
    "names with suffixes": (KIT, {"train": "b.jpg\nc.d.jpg", "val": "e.jpg"}, "b c.d", "e"),
    "one folder": ({f"{n}.xml": f"{n}.png" for n in "abcde"}, {}, None, None),
    "folders of splits": ({"train/a.xml": "train/a.jpg", "valid/a.xml": "valid/a.jpg"}, {}, "a", "a"),
}


@pytest.mark.parametrize("way", TREES)
def test_a_tree_of_ones_own_keeps_its_names(tmp_path, way):
    names, lists, train, val = TREES[way]
    root = own(tmp_path / "root", names, **lists)
    found = images(root, tmp_path / "data", 0.2)
    if train is None:
        assert len(found["train"]) == 4 and len(found["val"]) == 1
        return
    stems = {name: " ".join(sorted(Path(image).stem for image in each)) for name, each in found.items()}
    assert stems == {"train": train, "val": val}
    if way == "folders of splits":
        assert found == {"train": ["train/a.jpg"], "val": ["valid/a.jpg"]}


def test_classes_are_those_of_the_files(tmp_path):
    root = own(tmp_path / "root", KIT, train="b\ne", val="c.d")
    (root / "Annotations/e.xml").write_text(IMAGE.format(OBJECT.format("cap, red", 0, 2, 3, 4, 5)))
    split = splits_of(root, tmp_path / "data")["train"]
    assert [category.name for category in split.categories] == ["cap, red", "helmet"]
    assert [record.labels.tolist() for record in split.records] == [[2], [1]]
    assert split.records[1].boxes.tolist() == [[1, 2, 3, 4]]


def test_the_image_is_that_of_the_xmls_name_or_of_its_filename(tmp_path):
    root = own(tmp_path / "root", {"labels/1.xml": "photos/x.webp", "labels/b.xml": "photos/b.PNG"})
    for name, tag in (("1", "C:\\me\\x.jpg"), ("b", "other.png")):
        text = (root / f"labels/{name}.xml").read_text()
        (root / f"labels/{name}.xml").write_text(text.replace("<filename>x<", f"<filename>{tag}<"))
    found = images(root, tmp_path / "data", 0.5)
    assert sorted(found["train"] + found["val"]) == ["photos/b.PNG", "photos/x.webp"]


def test_a_size_that_the_xml_lacks_is_the_upright_images(tmp_path):
    root = own(tmp_path / "root", KIT, train="b", val="e")
    for name in "be":
        text = (root / f"Annotations/{name}.xml").read_text()
        (root / f"Annotations/{name}.xml").write_text(text.replace("50<", "0<" if name == "b" else "50<"))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = PICTURE[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + PICTURE[2:]
    (root / "JPEGImages/b.jpg").write_bytes(turned)
    splits = splits_of(root, tmp_path / "data")
    assert [(r.width, r.height) for split in splits.values() for r in split.records] == [(40, 50), (50, 40)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("Annotations/b.xml", b"50<", b"60<"), r"b\.xml says 60x40 px, but JPEGImages/b\.jpg has 50x40; correct one"),
        (("Annotations/b.xml", b"<object>", b"<objects>"), r"b\.xml is no VOC annotation .*mismatched tag"),
        (("JPEGImages/b.jpg", PICTURE, b"no picture"), r"b\.jpg cannot be decoded"),
        (("JPEGImages/b.jpg", None, None), r"b\.xml has no image: .* has no x and no b\.jpg; put the image there"),
        (("ImageSets/Main/train.txt", b"b", b"f"), r"train\.txt lists 'f', no name of a VOC image: there is no f\.xml"),
    ],
)
def test_the_file_that_the_user_wrote_is_named(tmp_path, change, sentence):
    root = own(tmp_path / "root", KIT, train="b", val="e")
    name, old, new = change
    data = (root / name).read_bytes()
    (root / name).unlink()
    if old:
        (root / name).write_bytes(data.replace(old, new))
    with pytest.raises(InputError, match=sentence):
        convert(root, tmp_path / "data")


def test_two_files_of_one_image_are_both_named(tmp_path):
    root = own(tmp_path / "root", {"a.xml": "a.jpg"})
    (root / "b.xml").write_text((root / "a.xml").read_text().replace("<filename>x<", "<filename>a.jpg<"))
    with pytest.raises(InputError, match=r"a\.xml and b\.xml are both of the image a\.jpg"):
        convert(root, tmp_path / "data", 0.5)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>' + IMAGE.format("&c;")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no element found"),
        (IMAGE[:40], "no element found|unclosed"),
        (BOMB, "declares a document type"),
        ("<svg/>", "its root is 'svg', not 'annotation'"),
        (BOMB.encode("utf-16"), "declares a document type"),
        (BOMB.encode("utf-16-be"), "declares a document type"),
        ("<!DOCTYPE a SYSTEM 'file:///etc/passwd'>" + IMAGE, "declares a document type"),
        ("<?xml version='1.0' encoding='cp9999'?>" + IMAGE, "unknown encoding"),
        ("<?xml version='1.0' encoding='rot13'?>" + IMAGE, "not a text encoding"),
        (IMAGE.replace("50", "many"), "size/width is 'many', no number"),
        (IMAGE.replace("50", "1_0"), "size/width is '1_0', no number"),
        (IMAGE.replace("50", "70000"), "its size is 70000x40"),
        *(
            (IMAGE.format(OBJECT.format("dog", 0, 1, 1, odd, 2)), f"bndbox/xmax is '{odd}', no number")
            for odd in ("nan", "inf", "-Infinity", "1_0", "1e999", "9" * 400)
        ),
        (IMAGE.format(OBJECT.format("x" * 10**6, 0, 1, 1, 2, 2)), "name must have 1 to 1000 characters"),
        (IMAGE.format("<object><name>dog</name></object>"), "lacks bndbox/xmin"),
    ],
)
def test_an_invalid_voc_annotation_is_named(root, tmp_path, text, reason):
    data = text if isinstance(text, bytes) else text.encode()
    (root / "VOC2007/Annotations/000005.xml").write_bytes(data)
    with pytest.raises(InputError, match=rf"000005\.xml is no VOC annotation .*({reason})"):
        convert(root, tmp_path)


@pytest.mark.parametrize("name", ["ImageSets/Main/trainval.txt", "Annotations/000005.xml"])
def test_the_target_of_a_link_is_not_quoted(root, tmp_path, name):
    (tmp_path / "secret").write_text("password 000005")
    (root / "VOC2007" / name).unlink()
    (root / "VOC2007" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="secret, out of the image folder") as refused:
        convert(root, tmp_path)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize("name", ["../000005", "dog", "1" * 16, "\u0661", "_"])
def test_a_list_names_annotations_that_are_there(root, tmp_path, name):
    (root / "VOC2007/ImageSets/Main/trainval.txt").write_text(f"000005\n{name}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"trainval\.txt lists '.*', no name of a VOC image"):
        convert(root, tmp_path)
