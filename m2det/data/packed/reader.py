"""The packed cache: images in LMDB, annotations in Arrow, the manifest as commit marker. Written by writer.py.

{split}.lmdb     key = 8-byte big-endian index, value = the image file's own bytes, or as ImageEncoding encodes them
{split}.arrow    one row per image, in the same order (SCHEMA)
{split}.json     ground truth in COCO's format with the boxes as annotated, for scoring
manifest.json    counts, drops by reason, class names and COCO category ids, CRC32s of the other two; written last
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa

from m2det.data.packed.encoding import ImageEncoding
from m2det.errors import RECHECK_DVC_CACHE, InputError
from m2det.files.hashing import digest_files

SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),  # xyxy, pixels
        ("labels", pa.list_(pa.int16())),  # from 1, in the order of the manifest's classes
        ("iscrowd", pa.list_(pa.bool_())),
        ("area", pa.list_(pa.float32())),
        ("crc32", pa.uint32()),  # of the LMDB value
    ]
)
REPACK = f"run `{RECHECK_DVC_CACHE} && dvc repro -f -s pack`, which packs anew and has DVC check its own copies"
FORMAT = 3


def key_of(index: int) -> bytes:
    """Return the LMDB key of an index; keys sort as indices do."""
    return struct.pack(">Q", index)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a cache's manifest. Raises InputError if the cache is unfinished, damaged or of another format."""
    path = folder / "manifest.json"
    if not path.exists():
        raise InputError(f"{folder} is no finished cache (no manifest.json); run `dvc repro pack`")
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); {REPACK}") from error
    if manifest["format"] != FORMAT:
        raise InputError(f"{folder} has format {manifest['format']}, this code reads {FORMAT}; {REPACK}")
    return manifest


def read_checked(path: Path, crc32: Mapping[str, int]) -> bytes:
    """Return the bytes of a cache's file beside the images. Raises InputError if its CRC32, by name, differs."""
    content = path.read_bytes() if path.is_file() else b""
    if zlib.crc32(content) != crc32[path.name]:
        raise InputError(f"{path} is missing or damaged; {REPACK}")
    return content


@dataclass(frozen=True)
class Annotations:
    """The objects of one image that training uses or evaluation counts; arrays share the table's memory.

    boxes: float32 [N,4] xyxy in pixels of the annotated image. labels: int16 [N], from 1. iscrowd: bool [N].
    """

    boxes: np.ndarray
    labels: np.ndarray
    iscrowd: np.ndarray


class PackedSplit:
    """One split of a packed cache, read-only.

    Picklable and safe to hand to workers: each process opens LMDB by itself.

    image_ids: int64 [N]. file_names: of N images. sizes: int32 [N,2], (width, height) of the annotated images, px.
    crc32: uint32 [N], of the records. encoding: of the images. manifest: the cache's.
    classes, category_ids: names and COCO category ids, in the order of the labels. ground_truth: JSON to score against.
    """

    def __init__(self, folder: str | Path, name: str) -> None:
        """Open the split `name` of the cache in `folder`. Raises InputError if it is not there, whole and finished."""
        self.folder, self.name = Path(folder), name
        self._lmdb = (self.folder / f"{name}.lmdb").resolve()
        self.ground_truth = self.folder / f"{name}.json"
        self.manifest = read_manifest(self.folder)
        if name not in self.manifest["splits"]:
            has = " and ".join(self.manifest["splits"]) or "none"
            raise InputError(f"{self.folder} has no split {name!r}, it has {has}; pack the images of that split first")
        self.classes: list[str] = self.manifest["classes"]
        self.category_ids: list[int] = self.manifest["category_ids"]
        self.encoding = ImageEncoding(**self.manifest["splits"][name]["stored"])
        self._lmdb_bytes: int = self.manifest["splits"][name]["lmdb_bytes"]
        # not mapped: a file that is truncated later would be SIGBUS; nor parsed before it is known to be whole
        content = read_checked(self.folder / f"{name}.arrow", self.manifest["splits"][name]["crc32"])
        table = pa.ipc.open_file(content).read_all().combine_chunks()
        # plain NumPy from here on: Arrow's thread pools do not survive a fork
        self.image_ids = table["image_id"].to_numpy()
        self.file_names = table["file_name"].to_pylist()
        self.sizes = np.stack([table["width"].to_numpy(), table["height"].to_numpy()], 1)
        self.crc32 = table["crc32"].to_numpy()
        boxes = _only_chunk(table["boxes"])
        self._offsets = boxes.offsets.to_numpy()
        self._boxes = boxes.values.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
        self._labels = _only_chunk(table["labels"]).values.to_numpy(zero_copy_only=False)
        self._iscrowd = _only_chunk(table["iscrowd"]).values.to_numpy(zero_copy_only=False)
        self._check_lmdb_size()

    def __len__(self) -> int:
        return len(self.image_ids)

    def annotations(self, index: int) -> Annotations:
        """Return the objects of the image at that position."""
        rows = slice(self._offsets[index], self._offsets[index + 1])
        return Annotations(self._boxes[rows], self._labels[rows], self._iscrowd[rows])

    def record(self, index: int) -> bytes:
        """Return the image as stored, for decode_bgr. Raises InputError if damaged since: LMDB has no checksums."""
        self._check_lmdb_size()
        try:
            with _environment(self._lmdb).begin() as transaction:
                value: bytes | None = transaction.get(key_of(index))
        except lmdb.Error:  # its pages are damaged
            value = None
        if value is None or zlib.crc32(value) != self.crc32[index]:
            raise InputError(f"{self.folder}/{self.name}.lmdb is damaged at image {self.file_names[index]}; {REPACK}")
        return value

    def _check_lmdb_size(self) -> None:
        # reading past the end of a truncated file is SIGBUS, not an exception: compare with what was written
        try:
            actual = self._lmdb.stat().st_size
        except FileNotFoundError:
            actual = 0
        if actual != self._lmdb_bytes:
            path = self.folder / f"{self.name}.lmdb"
            raise InputError(f"{path} is missing or truncated: it has {actual} bytes, not {self._lmdb_bytes}; {REPACK}")


def cache_digest(folder: Path) -> str:
    """Return the sha256 over the cache's tables, which hold the CRC32 of each image."""
    return digest_files([*folder.glob("*.arrow"), *folder.glob("*.json")], folder)


def is_finished(folder: Path) -> bool:
    """Return whether the manifest and all files that it names are whole; images are not read one by one."""
    try:
        for name, entry in read_manifest(folder)["splits"].items():
            read_checked(PackedSplit(folder, name).ground_truth, entry["crc32"])
    except InputError:
        return False
    return True


_open: dict[tuple[int, int], tuple[int, Any]] = {}  # device, inode -> (process that opened it, environment)


def _environment(path: Path) -> Any:
    """Return this process's one environment of a file: LMDB refuses a second, and a forked one is the parent's.

    Splits of the same images are one file under two names where DVC's links are.
    """
    pid, status = os.getpid(), path.stat()
    file = (status.st_dev, status.st_ino)
    if file in _open and _open[file][0] != pid:
        _open.pop(file)[1].close()  # inherited; without a lock file closing it touches this process alone
    if file not in _open:
        env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
        _open[file] = (pid, env)
    return _open[file][1]


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    """Return a column's array: the table was written as one record batch."""
    assert column.num_chunks == 1
    return column.chunk(0)
