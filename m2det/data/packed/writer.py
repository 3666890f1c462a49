"""Writing the packed cache (m2det.data.packed.reader): images checked and encoded, annotations, manifest last."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2det.data.image_checks import check_header, check_size
from m2det.data.packed.encoding import ImageEncoding
from m2det.data.packed.lmdb_writer import write_images
from m2det.data.packed.reader import FORMAT, SCHEMA
from m2det.data.sources.records import Category, ImageRecord, Split
from m2det.errors import InputError
from m2det.files.regular_file import require_regular

ORIGINAL = ImageEncoding()
CHECKS = {"decode": check_size, "header": check_header}
MAX_DECODED = 20_000  # images of a split: verify "auto" decodes fewer, which takes some seconds
MEANING = {
    "decode": "decoding each",
    "header": "markers and size alone (pack.verify: decode finds those of which a part is lost, too)",
}


def write_split(
    folder: Path, name: str, split: Split, verify: str = "auto", encoding: ImageEncoding = ORIGINAL, threads: int = 1
) -> dict[str, Any]:
    """Write one split, and report progress; an interrupted call is continued.

    Args:
        folder: of the cache; it exists.
        name: of the split, "train" or "val".
        split: its records are read, checked and encoded.
        verify: check the images by "decode" (decoding each) or "header" (markers and size alone); "auto" decodes
            small splits.
        encoding: of the images.
        threads: that read, check and encode.

    Returns:
        The split's entry in the manifest, for finish_cache.

    Raises:
        InputError: an image, which is named, is missing or not as annotated, or the cache cannot be written.
    """
    records = split.records
    verify = ("decode" if len(records) < MAX_DECODED else "header") if verify == "auto" else verify

    def encode(index: int) -> bytes:
        record = records[index]
        data = record.read()
        CHECKS[verify](data, f"image {record.image_id} ({record.path})", record.width, record.height)
        return encoding.encode(data, record.file_name)

    lmdb_path, table, truth = (folder / f"{name}.{kind}" for kind in ("lmdb", "arrow", "json"))
    max_sizes = [encoding.max_bytes(r.width, r.height, _file_size(r)) for r in records]
    sums = write_images(lmdb_path, max_sizes, encode, threads)
    _write_arrow(table, records, sums[:, 0])
    truth.write_text(json.dumps(split.ground_truth, separators=(",", ":")) + "\n")
    return {
        "images": len(sums),
        "boxes": sum(int((~r.iscrowd).sum()) for r in records),
        "crowds": sum(int(r.iscrowd.sum()) for r in records),
        "clipped": split.clipped,
        "dropped": dict(sorted(split.dropped.items())),
        "bytes": int(sums[:, 1].sum()),
        "stored": asdict(encoding),
        "lmdb_bytes": lmdb_path.stat().st_size,
        "crc32": {file.name: zlib.crc32(file.read_bytes()) for file in (table, truth)},  # each image's is in the table
        "verified": verify,
    }


def require_room(folder: Path, size: int) -> None:
    """Raise InputError if the disk has no room for `size` bytes, those in the folder counted."""
    used = sum(path.stat().st_size for path in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if used + free < size:
        raise InputError(
            f"{folder}: this needs {(size - used) / 1e6:.0f} MB more, its disk has {free / 1e6:.0f} MB; make room"
        )


def _file_size(record: ImageRecord) -> int:
    try:
        status = record.path.stat()
    except OSError as error:  # a name too long for the disk, say
        raise InputError(
            f"image {record.image_id} is missing: {record.path} does not exist; put the file there, or "
            "remove it from the annotations and run `dvc repro -f data`"
        ) from error
    require_regular(record.path, status)
    return status.st_size


def _write_arrow(path: Path, records: list[ImageRecord], crcs: NDArray[np.uint32]) -> None:
    offsets = np.cumsum([0, *(len(r.labels) for r in records)], dtype=np.int32)

    def per_object(values: list[NDArray[Any]]) -> pa.Array:
        # from flat arrays: a Python list for each image took seconds at COCO's size
        flat = np.concatenate(values)
        items = pa.FixedSizeListArray.from_arrays(flat.ravel(), 4) if flat.ndim == 2 else pa.array(flat)
        return pa.ListArray.from_arrays(offsets, items)

    columns = {name: [getattr(r, name) for r in records] for name in SCHEMA.names if name != "crc32"}
    columns |= {name: per_object(columns[name]) for name in ("boxes", "labels", "iscrowd", "area")}
    table = pa.table(columns | {"crc32": crcs}, schema=SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table)


def finish_cache(folder: Path, categories: list[Category], splits: dict[str, Any]) -> None:
    """Write the manifest, the commit marker: a cache without it is unfinished.

    Args:
        folder: of the cache.
        categories: of all splits.
        splits: by name, what write_split returned.
    """
    manifest = {
        "format": FORMAT,
        "classes": [category.name for category in categories],
        "category_ids": [category.id for category in categories],
        "splits": splits,
    }
    temporary = folder / "manifest.json.tmp"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n")
    os.replace(temporary, folder / "manifest.json")
    for path in folder.glob("*.sums"):
        path.unlink()
