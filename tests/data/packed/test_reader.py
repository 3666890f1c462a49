"""The cache holds what was packed, byte for byte, twice the same; bad images end in a sentence."""

import json
import os
import pickle
import zlib

import cv2
import numpy as np
import pytest

from m2det.data.image_checks import check_jpeg_is_whole, check_size
from m2det.data.packed import reader
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.errors import InputError


@pytest.fixture
def dataset(tmp_path):
    """Twelve images, one without objects, one with a crowd; returns (annotation file, image folder)."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    for i in range(1, 13):
        picture = rng.integers(0, 255, (40 + i, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{i}.jpg"), picture)
        images.append({"id": 100 - i, "file_name": f"{i}.jpg", "width": 60, "height": 40 + i})
        for n in range(i % 4):
            box = [3.0 * n, 2.0, 20.0, 10.0 + n]
            annotations.append(
                {"id": len(annotations), "image_id": 100 - i, "category_id": 5 + n, "bbox": box, "area": 99.0}
                | {"iscrowd": int(i == 7 and n == 0)}
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 5 + n, "name": f"c{n}"} for n in range(3)],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return tmp_path / "annotations.json", tmp_path / "images"


def pack(dataset, folder):
    folder.mkdir()
    split = read_split([dataset])
    finish_cache(folder, split.categories, {"train": write_split(folder, "train", split)})
    return split


def test_the_cache_holds_the_packed_bytes_and_annotations(dataset, tmp_path):
    split = pack(dataset, tmp_path / "cache")
    packed = PackedSplit(tmp_path / "cache", "train")
    assert len(packed) == 12 and packed.classes == ["c0", "c1", "c2"] and packed.category_ids == [5, 6, 7]
    for i, record in enumerate(split.records):
        assert packed.image_ids[i] == record.image_id and packed.file_names[i] == record.file_name
        assert packed.record(i) == record.path.read_bytes()
        assert packed.crc32[i] == zlib.crc32(packed.record(i))
        objects = packed.annotations(i)
        np.testing.assert_array_equal(objects.boxes, record.boxes.reshape(-1, 4))
        np.testing.assert_array_equal(objects.labels, record.labels)
        np.testing.assert_array_equal(objects.iscrowd, record.iscrowd)


def test_the_same_input_gives_the_same_bytes(dataset, tmp_path):
    for name in ("one", "two"):
        pack(dataset, tmp_path / name)
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_a_split_is_readable_after_fork_and_unpickling(dataset, tmp_path):
    split = pack(dataset, tmp_path / "cache")
    packed = PackedSplit(tmp_path / "cache", "train")
    first = packed.record(0)
    assert pickle.loads(pickle.dumps(packed)).record(0) == first
    status = (tmp_path / "cache/train.lmdb").stat()
    file = (status.st_dev, status.st_ino)
    reading, writing = os.pipe()
    if os.fork() == 0:
        own = packed.record(0) == first and reader._open[file][0] == os.getpid()
        os.write(writing, b"1" if own else b"0")
        os._exit(0)
    assert os.read(reading, 1) == b"1", "a child opens the file by itself"
    assert len(split.records) == 12


def test_splits_of_the_same_images_are_readable_where_they_are_one_file(dataset, tmp_path):
    """DVC links equal files to one object of its cache; LMDB opens a file once in a process."""
    folder, split = tmp_path / "cache", read_split([dataset])
    folder.mkdir()
    finish_cache(folder, split.categories, {name: write_split(folder, name, split) for name in ("train", "val")})
    (folder / "val.lmdb").unlink()
    (folder / "val.lmdb").hardlink_to(folder / "train.lmdb")
    train, val = PackedSplit(folder, "train"), PackedSplit(folder, "val")
    assert [train.record(i) for i in range(12)] == [val.record(i) for i in range(12)]


def test_an_unfinished_or_truncated_cache_is_refused(dataset, tmp_path):
    pack(dataset, tmp_path / "cache")
    lmdb = tmp_path / "cache/train.lmdb"
    os.truncate(lmdb, 8192)
    with pytest.raises(InputError, match=r"truncated: it has 8192 bytes, not .*; run"):
        PackedSplit(tmp_path / "cache", "train")
    (tmp_path / "cache/manifest.json").unlink()
    with pytest.raises(InputError, match="no finished cache"):
        PackedSplit(tmp_path / "cache", "train")


def test_a_damaged_table_is_never_parsed_and_a_truncated_one_no_signal(dataset, tmp_path):
    pack(dataset, tmp_path / "cache")
    packed, table = PackedSplit(tmp_path / "cache", "train"), tmp_path / "cache/train.arrow"
    before, content = packed.annotations(3).boxes.copy(), bytearray(table.read_bytes())
    os.truncate(table, 0)
    np.testing.assert_array_equal(packed.annotations(3).boxes, before)
    assert packed.crc32[3] == zlib.crc32(packed.record(3))
    for at in range(7, len(content), 97):
        damaged = content.copy()
        damaged[at] ^= 4
        table.write_bytes(damaged)
        with pytest.raises(InputError, match=r"train\.arrow is missing or damaged; run"):
            PackedSplit(tmp_path / "cache", "train")


def test_bad_images_are_named(dataset, tmp_path):
    whole = (dataset[1] / "3.jpg").read_bytes()
    check_jpeg_is_whole(whole, "x")
    with pytest.raises(InputError, match="image 97 is truncated"):
        check_jpeg_is_whole(whole[: len(whole) // 2], "image 97")
    with pytest.raises(InputError, match="image 97 cannot be decoded"):
        check_size(b"nothing", "image 97", 60, 43)
    with pytest.raises(InputError, match="image 97 is 60x43 px, its annotation says 60x44"):
        check_size(whole, "image 97", 60, 44)
    (dataset[1] / "3.jpg").unlink()
    with pytest.raises(InputError, match=r"image 97 is missing: .*3\.jpg"):
        pack(dataset, tmp_path / "cache")


def test_real_coco_jpegs_are_whole(shared):
    for path in sorted((shared / "coco2014-mini/images").rglob("*.jpg")):
        check_jpeg_is_whole(path.read_bytes(), path.name)
