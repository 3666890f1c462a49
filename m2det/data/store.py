"""The packed cache: images in LMDB, annotations in Arrow, the manifest as commit marker.

{split}.lmdb     key = 8-byte big-endian index, value = the image file's own bytes, or what Storage makes of them
{split}.arrow    one row per image, in the same order (SCHEMA)
{split}.json     ground truth in COCO's format with the boxes as annotated, for scoring
manifest.json    counts, drops by reason, class names and COCO category ids; written last
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from m2det.data.coco import Category, ImageRecord, Split
from m2det.data.storage import Storage
from m2det.errors import InputError

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
RECORDS_PER_COMMIT = 1000  # fixed, like the map size: the same input must give the same bytes
REPACK = "run `dvc repro -f pack`"
FORMAT = 2
ORIGINAL = Storage()


def _key(index: int) -> bytes:
    return struct.pack(">Q", index)


def write_split(
    folder: Path,
    name: str,
    split: Split,
    check: Callable[[bytes, ImageRecord], None],
    storage: Storage = ORIGINAL,
) -> dict[str, Any]:
    """Write one split, with a progress bar, and return its manifest entry.

    check: raises InputError naming an image that is not what its record says.
    """
    sizes = [storage.most_bytes(r.width, r.height, _file_size(r)) for r in split.records]
    # values live in pages of their own of 4 KiB; a tenth and 64 MiB for the tree
    map_size = sum(-(-size // 4096) * 4096 + 4096 for size in sizes) * 11 // 10 + (64 << 20)
    path = folder / f"{name}.lmdb"
    path.unlink(missing_ok=True)  # what an interrupted run left
    try:
        env = lmdb.open(str(path), map_size=map_size, subdir=False, lock=False, sync=False, writemap=False)
        crcs, stored = _write_values(env, split.records, check, storage, f"packing {name}")
        env.close()
    except lmdb.Error as error:
        raise InputError(f"{path} cannot be written ({error}); make room on its disk") from error
    _write_arrow(folder / f"{name}.arrow", split.records, crcs)
    (folder / f"{name}.json").write_text(json.dumps(split.ground_truth, separators=(",", ":")) + "\n")
    boxes = sum(int((~r.iscrowd).sum()) for r in split.records)
    crowds = sum(int(r.iscrowd.sum()) for r in split.records)
    return {
        "images": len(crcs),
        "boxes": boxes,
        "crowds": crowds,
        "clipped": split.clipped,
        "dropped": dict(sorted(split.dropped.items())),
        "bytes": stored,
        "stored": asdict(storage),
        "lmdb_bytes": path.stat().st_size,
    }


def _write_values(
    env: Any, records: list[ImageRecord], check: Callable[[bytes, ImageRecord], None], storage: Storage, title: str
) -> tuple[list[int], int]:
    """Write the images in order; returns their crc32 and their bytes together."""
    crcs: list[int] = []
    stored = 0
    transaction = env.begin(write=True)
    for index, record in enumerate(tqdm(records, title, unit="image")):
        value = record.path.read_bytes()
        check(value, record)
        value = storage.encode(value, record.file_name)
        stored += len(value)
        transaction.put(_key(index), value, append=True)
        crcs.append(zlib.crc32(value))
        if len(crcs) % RECORDS_PER_COMMIT == 0:
            transaction.commit()
            transaction = env.begin(write=True)
    transaction.commit()
    env.sync(True)
    return crcs, stored


def _file_size(record: ImageRecord) -> int:
    with suppress(OSError):  # a name too long for the disk, say
        if record.path.is_file():
            return record.path.stat().st_size
    raise InputError(
        f"image {record.image_id} is missing: {record.path} is not there; put it there, or remove it "
        "from the annotations and run `dvc repro -f data`"
    )


def _write_arrow(path: Path, records: list[ImageRecord], crcs: list[int]) -> None:
    table = pa.table(
        {
            "image_id": [r.image_id for r in records],
            "file_name": [r.file_name for r in records],
            "width": [r.width for r in records],
            "height": [r.height for r in records],
            "boxes": [r.boxes.tolist() for r in records],
            "labels": [r.labels.tolist() for r in records],
            "iscrowd": [r.iscrowd.tolist() for r in records],
            "area": [r.area.tolist() for r in records],
            "crc32": crcs,
        },
        schema=SCHEMA,
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table)


def finish_cache(folder: Path, categories: list[Category], splits: dict[str, Any]) -> None:
    """Write the manifest, the commit marker: a cache without it is unfinished."""
    manifest = {
        "format": FORMAT,
        "classes": [category.name for category in categories],
        "category_ids": [category.id for category in categories],
        "splits": splits,
    }
    temporary = folder / "manifest.json.tmp"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n")
    os.replace(temporary, folder / "manifest.json")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises InputError where there is no finished cache."""
    path = folder / "manifest.json"
    if not path.exists():
        raise InputError(f"{folder} is no finished cache (no manifest.json); run `dvc repro pack`")
    manifest: dict[str, Any] = json.loads(path.read_text())
    if manifest["format"] != FORMAT:
        raise InputError(f"{folder} has format {manifest['format']}, this code reads {FORMAT}; {REPACK}")
    return manifest


@dataclass(frozen=True)
class Annotations:
    """The objects of one image that training uses or evaluation counts; arrays share the table's memory."""

    boxes: np.ndarray  # float32 [N,4] xyxy pixels
    labels: np.ndarray  # int16 [N]
    iscrowd: np.ndarray  # bool [N]


class PackedSplit:
    """One split, read-only. Picklable and safe to hand to workers: each process opens LMDB by itself."""

    def __init__(self, folder: str | Path, name: str) -> None:
        self.folder, self.name = Path(folder), name
        self._lmdb = (self.folder / f"{name}.lmdb").resolve()
        self.manifest = read_manifest(self.folder)
        self.storage = Storage(**self.manifest["splits"][name]["stored"])
        try:
            with pa.memory_map(str(self.folder / f"{name}.arrow")) as source:
                table = pa.ipc.open_file(source).read_all().combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.folder}/{name}.arrow is missing or damaged; {REPACK}") from error
        # plain NumPy from here on: Arrow's thread pools do not survive a fork
        self.image_ids = table["image_id"].to_numpy()
        self.file_names = table["file_name"].to_pylist()
        self.sizes = np.stack([table["width"].to_numpy(), table["height"].to_numpy()], 1)
        self.crc32 = table["crc32"].to_numpy()
        boxes = _only_chunk(table["boxes"])
        self._offsets = boxes.offsets.to_numpy()
        self._boxes = boxes.values.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4).copy()
        self._labels = _only_chunk(table["labels"]).values.to_numpy(zero_copy_only=False).copy()
        self._iscrowd = _only_chunk(table["iscrowd"]).values.to_numpy(zero_copy_only=False).copy()
        self._check_lmdb_size()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def classes(self) -> list[str]:
        classes: list[str] = self.manifest["classes"]
        return classes

    @property
    def category_ids(self) -> list[int]:
        ids: list[int] = self.manifest["category_ids"]
        return ids

    @property
    def ground_truth(self) -> Path:
        return self.folder / f"{self.name}.json"

    def annotations(self, index: int) -> Annotations:
        rows = slice(self._offsets[index], self._offsets[index + 1])
        return Annotations(self._boxes[rows], self._labels[rows], self._iscrowd[rows])

    def record(self, index: int) -> bytes:
        """The image as stored, for decode_bgr. Raises InputError where it was damaged since: LMDB has no checksums."""
        self._check_lmdb_size()
        try:
            with _environment(self._lmdb).begin() as transaction:
                value: bytes | None = transaction.get(_key(index))
        except lmdb.Error:  # its pages are damaged
            value = None
        if value is None or zlib.crc32(value) != self.crc32[index]:
            raise InputError(f"{self.folder}/{self.name}.lmdb is damaged at image {self.file_names[index]}; {REPACK}")
        return value

    def _check_lmdb_size(self) -> None:
        # reading past the end of a truncated file is SIGBUS, not an exception: compare with what was written
        path = self.folder / f"{self.name}.lmdb"
        size, actual = self.manifest["splits"][self.name]["lmdb_bytes"], path.stat().st_size if path.exists() else 0
        if actual != size:
            raise InputError(f"{path} is missing or truncated: it has {actual} bytes, not {size}; {REPACK}")


_open: dict[Path, tuple[int, Any]] = {}  # file -> (process that opened it, environment)


def _environment(path: Path) -> Any:
    """The process's one environment of a file: LMDB refuses a second, and one from before a fork is not ours."""
    pid = os.getpid()
    if path in _open and _open[path][0] != pid:
        _open.pop(path)[1].close()  # the parent's, inherited; without a lock file closing it touches only us
    if path not in _open:
        env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
        _open[path] = (pid, env)
    return _open[path][1]


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The table was written as one record batch; an empty one reads as no chunk at all."""
    assert column.num_chunks == 1
    return column.chunk(0)
