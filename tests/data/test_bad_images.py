"""All bad images are named at once; or skipped, and listed."""

import json
from pathlib import Path

import pytest

from m2det.data.inspection import ImageFaults
from m2det.data.jpeg import decode_bgr
from m2det.data.orientation import upright_size
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.data.sources.fault_list import MAX_NAMED
from m2det.data.sources.tree import Tree
from m2det.errors import InputError
from tests.data.photos import photo, write_set


def bad_set(folder: Path, count: int = 8) -> Path:
    """Photos of which number 2 is missing, 3 cut, 5 of another size, 6 text."""
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": 160, "height": 120, "data": photo((20, 20, 50, 50), 1)}
        for i in range(count)
    ]
    boxes = [{"image_id": i, "category_id": 1, "bbox": [20, 20, 50, 50], "area": 2500} for i in range(count)]
    images[2]["data"] = None
    images[3]["data"] = images[3]["data"][:-200]
    images[5]["data"] = photo((20, 20, 50, 50), 1, width=100, height=90)
    images[6]["data"] = b"404 not found"
    return write_set(folder, images, boxes)


def write(path: Path, **options) -> dict:
    cache = path.parent / "cache"
    cache.mkdir(exist_ok=True)
    split = read_split([(path, path.with_suffix(""))])
    entry = write_split(cache, "train", split, **options)
    finish_cache(cache, split.categories, {"train": entry})
    return entry


@pytest.mark.parametrize("threads", [1, 3])
def test_every_bad_image_is_named(tmp_path, threads):
    with pytest.raises(ImageFaults) as error:
        write(bad_set(tmp_path / "a"), threads=threads)
    assert [fault.index for fault in error.value.faults] == [2, 3, 5, 6]
    for words in ("2.jpg does not exist", "3.jpg) is truncated", "5.jpg) is 100x90 px", "6.jpg) cannot be decoded"):
        assert words in str(error.value)


def test_skipped_images_are_in_the_manifest_and_nowhere_else(tmp_path):
    path = bad_set(tmp_path / "a")
    entry = write(path, skip_bad=True)
    assert [image["file_name"] for image in entry["skipped"]] == ["2.jpg", "3.jpg", "5.jpg", "6.jpg"]
    assert "is truncated" in entry["skipped"][1]["reason"]
    split = PackedSplit(tmp_path / "cache", "train")
    assert split.file_names == ["0.jpg", "1.jpg", "4.jpg", "7.jpg"] and entry["boxes"] == 4
    assert split.record(2) == (tmp_path / "a/4.jpg").read_bytes()
    truth = json.loads(split.ground_truth.read_bytes())
    assert [image["id"] for image in truth["images"]] == [a["image_id"] for a in truth["annotations"]] == [0, 1, 4, 7]
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == [
        "manifest.json",
        "train.arrow",
        "train.json",
        "train.lmdb",
    ]


def test_a_pack_interrupted_after_it_has_found_what_to_skip_goes_on_with_the_rest(tmp_path, monkeypatch):
    path = bad_set(tmp_path / "a")
    undisturbed = write(path, skip_bad=True)
    before = {p.name: p.read_bytes() for p in (tmp_path / "cache").iterdir()}
    for file in (tmp_path / "cache").iterdir():
        file.unlink()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("m2det.data.packed.writer._write_arrow", killed)
        with pytest.raises(KeyboardInterrupt):
            write(path, skip_bad=True)
    assert (tmp_path / "cache/train.plan").exists()
    assert write(path, skip_bad=True) == undisturbed
    assert {p.name: p.read_bytes() for p in (tmp_path / "cache").iterdir()} == before


def test_a_split_of_bad_images_alone_is_refused_though_they_may_be_skipped(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9, "data": b"no"} for i in range(30)]
    with pytest.raises(ImageFaults) as error:
        write(write_set(tmp_path / "a", images, []), skip_bad=True)
    assert len(error.value.faults) == 30 and 0 < str(error.value).count("cannot be decoded") <= MAX_NAMED


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "a pointer of Git LFS .*git lfs pull"),
        (b"\n<!DOCTYPE html><html>404", "it is HTML or XML, perhaps an error page"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 99, "it is HEIC or AVIF, whatever its suffix; save it as JPEG or PNG"),
        (b"\xff\xd8" + b"\0" * 99, "damaged"),
    ],
)
def test_what_lies_in_place_of_an_image_is_told_as_what_it_is(tmp_path, data, words):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(InputError, match=f"a.jpg cannot be decoded: .*{words}"):
        decode_bgr(data, "a.jpg")
    with pytest.raises(InputError, match=f"a.jpg cannot be decoded: .*{words}"):
        Tree(tmp_path).measure("a.jpg", upright_size)
