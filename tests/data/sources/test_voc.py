"""Pascal VOC, as its development kit lays it out, becomes what the rest reads; hostile XML ends in a sentence."""

import re

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
from m2det.data.sources.voc import CLASSES, convert_voc
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
            cv2.imwrite(str(root / year / f"JPEGImages/{image}.jpg"), np.zeros((40, 50, 3), np.uint8))
    return root


def test_voc_is_read_like_coco(root, tmp_path):
    target = tmp_path / "data"
    write_manifest(tmp_path / "manifest.json", (target, root), convert_voc(root, target))
    assert str(tmp_path) not in (tmp_path / "manifest.json").read_text()
    sources = load_sources(tmp_path / "manifest.json", (target, root))
    train, val = (read_split(sources[name]) for name in ("train", "val"))
    assert [record.image_id for record in train.records] == [5, 2007000027, 2008000002]
    assert [record.image_id for record in val.records] == [1]
    assert [category.name for category in train.categories] == list(CLASSES) == sorted(CLASSES) and len(CLASSES) == 20
    for record in (*train.records, *val.records):
        assert record.path.is_file()
        assert record.boxes.tolist() == [[0, 0, 49, 39], [9.5, 1, 19, 29]]
        assert [CLASSES[label - 1] for label in record.labels] == ["dog", "person"]
        assert record.iscrowd.tolist() == [False, True], "difficult: not trained on, not counted"
    assert train.clipped == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["voc320-1p", "voc512-1p", "voc512-8p"])
def test_a_recipe_for_voc_trains(root, tmp_path, name, caplog):
    """Two steps of two images, with a small network; finetuning starts from 80 classes, keeps all but their heads."""
    target, cache, backbone = tmp_path / "data", tmp_path / "cache", tmp_path / "backbone.safetensors"
    cache.mkdir()
    pairs = convert_voc(root, target)
    splits = {key: read_split([(target / a, root / i) for a, i in files]) for key, files in pairs.items()}
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


def test_a_missing_year_is_a_warning(root, tmp_path, caplog):
    (root / "VOC2012/ImageSets/Main/trainval.txt").unlink()
    assert convert_voc(root, tmp_path)["train"] == [("annotations/VOC2007_trainval.json", "VOC2007/JPEGImages")]
    assert "VOC2012/ImageSets/Main/trainval.txt is missing: train is made without it" in caplog.text
    (root / "VOC2007/ImageSets/Main/test.txt").unlink()
    with pytest.raises(InputError, match=r"has no VOC2007/ImageSets/Main/test.txt; data.root must be VOCdevkit"):
        convert_voc(root, tmp_path)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>' + IMAGE.format("&c;")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no element found"),
        (IMAGE[:40], "no element found|unclosed"),
        (BOMB, "declares a document type"),
        ("<annotation/>", "lacks size/width"),
        (BOMB.encode("utf-16"), "declares a document type"),
        (BOMB.encode("utf-16-be"), "declares a document type"),
        ("<!DOCTYPE a SYSTEM 'file:///etc/passwd'>" + IMAGE, "declares a document type"),
        ("<?xml version='1.0' encoding='cp9999'?>" + IMAGE, "unknown encoding"),
        ("<?xml version='1.0' encoding='rot13'?>" + IMAGE, "not a text encoding"),
        (IMAGE.replace("50", "many"), "size/width is 'many', no number"),
        (IMAGE.replace("50", "1_0"), "size/width is '1_0', no number"),
        *(
            (IMAGE.format(OBJECT.format("dog", 0, 1, 1, odd, 2)), f"bndbox/xmax is '{odd}', no number")
            for odd in ("nan", "inf", "-Infinity", "1_0", "1e999", "9" * 400)
        ),
        (IMAGE.format(OBJECT.format("unicorn", 0, 1, 1, 2, 2)), "no class 'unicorn'"),
        (IMAGE.format("<object><name>dog</name></object>"), "lacks bndbox/xmin"),
    ],
)
def test_an_invalid_voc_annotation_is_named(root, tmp_path, text, reason):
    data = text if isinstance(text, bytes) else text.encode()
    (root / "VOC2007/Annotations/000005.xml").write_bytes(data)
    with pytest.raises(InputError, match=rf"000005\.xml is no VOC annotation .*({reason})"):
        convert_voc(root, tmp_path)


def test_a_long_class_name_is_shortened_in_the_error(root, tmp_path):
    (root / "VOC2007/Annotations/000005.xml").write_text(IMAGE.format(OBJECT.format("x" * 10**6, 0, 1, 1, 2, 2)))
    sentence = r"000005\.xml is no VOC .* has no class 'x+ \[\.\.\.\] x+'\); unpack"
    with pytest.raises(InputError, match=sentence) as refused:
        convert_voc(root, tmp_path)
    assert len(str(refused.value)) <= 2000


def test_an_unreadable_annotation_is_named(root, tmp_path):
    (root / "VOC2007/Annotations/000005.xml").unlink()
    with pytest.raises(InputError, match=r"000005\.xml cannot be read: no such file or directory$"):
        convert_voc(root, tmp_path)


@pytest.mark.parametrize("name", ["ImageSets/Main/trainval.txt", "Annotations/000005.xml"])
def test_the_target_of_a_link_is_not_quoted(root, tmp_path, name):
    (tmp_path / "secret").write_text("password 000005")
    (root / "VOC2007" / name).unlink()
    (root / "VOC2007" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="secret, out of the image folder") as refused:
        convert_voc(root, tmp_path)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize("name", ["../000005", "dog", "1" * 16, "\u0661", "_"])
def test_a_list_names_images_by_digits(root, tmp_path, name):
    (root / "VOC2007/ImageSets/Main/trainval.txt").write_text(f"000005\n{name}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"trainval\.txt lists '.*', no name of a VOC image"):
        convert_voc(root, tmp_path)
