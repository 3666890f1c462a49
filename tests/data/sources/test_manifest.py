import json
import os
import shutil
from pathlib import Path

import pytest

from m2det.config import DataParams
from m2det.config.schema import defaults
from m2det.data.sources.image_times import NAME, write_times
from m2det.data.sources.manifest import load_sources, with_known_orientation, write_manifest
from m2det.errors import InputError

SPLITS = {"train": [("train.json", "images")], "val": [("val.json", "images/more")]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "images" / "more").mkdir(parents=True)
    for name in ("b.jpg", "a.jpg", "more/c.jpg", "never_named.jpg"):
        (root / "images" / name).write_bytes(name.encode())
    write_annotations(root / "train.json", ["b.jpg", "a.jpg", "more/c.jpg"])
    write_annotations(root / "val.json", ["c.jpg"])
    return root


def write_annotations(path: Path, names: list[str]) -> None:
    images = [{"id": i, "file_name": name, "width": 4, "height": 3} for i, name in enumerate(names)]
    categories = [{"id": 1, "name": "cat"}]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))


def test_the_manifest_lists_names_and_sizes_and_no_absolute_path(root: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    write_manifest(manifest, (root, root), SPLITS)
    content = json.loads(manifest.read_text())
    assert content["train"][0]["files"] == {"a.jpg": 5, "b.jpg": 5, "more/c.jpg": 10}
    assert content["val"][0]["files"] == {"c.jpg": 10}
    assert str(tmp_path) not in manifest.read_text()

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root, elsewhere)
    write_manifest(tmp_path / "again.json", (elsewhere, elsewhere), SPLITS)
    assert (tmp_path / "again.json").read_bytes() == manifest.read_bytes()
    assert load_sources(manifest, (elsewhere, elsewhere)) == {
        "train": [(elsewhere / "train.json", elsewhere / "images")],
        "val": [(elsewhere / "val.json", elsewhere / "images/more")],
    }


def test_missing_files_are_named_with_the_advice(root: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    (root / "images" / "b.jpg").unlink()
    with pytest.raises(
        InputError, match=r"1 images .*/b\.jpg does not exist; 1 of the 3 .*train\.json .*; buy it; .*data check"
    ):
        write_manifest(manifest, (root, root), SPLITS, "buy it")
    with pytest.raises(InputError, match=r"annotation file .*nowhere\.json is missing; buy it"):
        write_manifest(manifest, (root, root), {"train": [("nowhere.json", "images")]}, "buy it")
    with pytest.raises(InputError, match=r"image folder .*nowhere is missing; buy it"):
        write_manifest(manifest, (root, root), {"train": [("train.json", "nowhere")]}, "buy it")
    assert not manifest.exists()
    with pytest.raises(InputError, match=r"manifest\.json is missing.*dvc repro data"):
        load_sources(manifest, (root, root))


def test_files_changed_since_are_named(root: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    write_manifest(manifest, (root, root), SPLITS)
    image, annotations = root / "images" / "b.jpg", root / "val.json"

    image.write_bytes(b"longer")
    with pytest.raises(InputError, match=r"b\.jpg has 6 bytes, not 5 .*dvc repro -f data"):
        load_sources(manifest, (root, root))
    image.unlink()
    with pytest.raises(InputError, match=r"b\.jpg is gone.*dvc repro -f data"):
        load_sources(manifest, (root, root))
    image.write_bytes(b"b.jpg")
    annotations.write_text(annotations.read_text() + "\n")
    with pytest.raises(InputError, match=r"val\.json has changed.*dvc repro data"):
        load_sources(manifest, (root, root))
    annotations.unlink()
    with pytest.raises(InputError, match=r"val\.json is gone.*dvc repro data"):
        load_sources(manifest, (root, root))


def test_an_image_of_the_same_size_but_another_time_is_told(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = tmp_path / "coco/manifest.json"
    manifest.parent.mkdir()
    write_manifest(manifest, (root, root), SPLITS)
    load_sources(manifest, (root, root))
    write_times(manifest, root, tmp_path / NAME)
    load_sources(manifest, (root, root))
    assert not caplog.records
    image = root / "images/a.jpg"
    image.write_bytes(b"A.JPG")
    os.utime(image, ns=(0, 1))
    load_sources(manifest, (root, root))
    [record] = caplog.records
    assert record.getMessage().startswith("1 images have another time") and "images/a.jpg" in record.getMessage()


def test_a_format_that_says_which_pixels_boxes_are_of_answers_for_the_setting(root: Path, tmp_path: Path) -> None:
    """YOLO's boxes are of the images as shown, so nothing has to be asked."""
    given = DataParams.model_validate(defaults()["data"] | {"source": "auto", "root": str(root)})
    for upright, setting, expected in ((True, "ask", "exif"), (True, "stored", "stored"), (False, "ask", "ask")):
        write_manifest(tmp_path / "manifest.json", (root, root), SPLITS, upright=upright)
        data = given.model_copy(update={"orientation": setting})
        assert with_known_orientation(data, tmp_path / "manifest.json").orientation == expected
