"""Writing the packed cache (m2det.data.packed.reader): images checked and encoded, annotations, manifest last."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2det.data.checks.images import check_orientation
from m2det.data.inspection import ImageFaults, Inspector
from m2det.data.packed.encoding import ImageEncoding
from m2det.data.packed.lmdb_writer import write_images
from m2det.data.packed.reader import FORMAT, SCHEMA
from m2det.data.sources.records import Category, ImageRecord, Split
from m2det.data.upright import EXCHANGED, Setting, exchange_sides
from m2det.errors import InputError
from m2det.files.whole import write_whole
from m2det.text import printable

ORIGINAL = ImageEncoding()
MAX_DECODED = 20_000  # images of a split: verify "auto" decodes fewer, which takes some seconds
MEANING = {
    "decode": "decoding each",
    "header": "markers and size alone (pack.verify: decode finds those of which a part is lost, too)",
}


def write_split(
    folder: Path,
    name: str,
    split: Split,
    verify: str = "auto",
    encoding: ImageEncoding = ORIGINAL,
    threads: int = 1,
    orientation: Setting = "ask",
    skip_bad: bool = False,
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
        orientation: which pixels boxes are of, as data.orientation.
        skip_bad: leave out images that are missing, damaged or not as annotated; the entry lists them.

    Returns:
        The split's entry in the manifest, for finish_cache.

    Raises:
        ImageFaults: images, all of which it has, are missing or not as annotated.
        InputError: the cache cannot be written.
    """
    verify = ("decode" if len(split.records) < MAX_DECODED else "header") if verify == "auto" else verify
    plan_path = folder / f"{name}.plan"  # what is not as in the split: written before any image that follows it
    while True:
        plan = _read_plan(plan_path)
        planned = _apply(plan, split)
        inspector = Inspector(planned, verify, orientation)
        try:
            entry = _write_planned(folder, name, planned, inspector, encoding, threads)
        except ImageFaults as error:
            first = error.faults[0].index
            faults = error.faults + inspector.faults(range(first + 1, len(planned.records)), threads)
        else:
            for finding in check_orientation(inspector, len(planned.records), name):
                print(finding)
            for note in planned.notes[len(split.notes) :]:
                print(printable(f"{name}: {note.text}"))
            skipped = [{"file_name": file_name, "reason": reason} for file_name, reason in plan["skipped"].values()]
            return {**entry, "verified": verify, **({"skipped": skipped} if skipped else {})}
        exchanged = [fault for fault in faults if fault.kind == EXCHANGED]
        bad = [fault for fault in faults if fault.kind != EXCHANGED]
        if (bad and not (skip_bad and all(fault.kind == "bad" for fault in bad))) or len(bad) == len(planned.records):
            raise ImageFaults(bad)
        records = planned.records
        plan["exchanged"] += [records[fault.index].image_id for fault in exchanged]
        plan["skipped"] |= {str(records[f.index].image_id): (records[f.index].file_name, f.text) for f in bad}
        for path in (folder / f"{name}.lmdb", folder / f"{name}.sums"):
            path.unlink(missing_ok=True)  # its images were of another plan
        write_whole(plan_path, json.dumps(plan))


def _read_plan(path: Path) -> dict[str, Any]:
    plan: dict[str, Any] = {"exchanged": [], "skipped": {}}
    return json.loads(path.read_bytes()) if path.exists() else plan


def _apply(plan: dict[str, Any], split: Split) -> Split:
    """Return the split without images that are skipped, and with exchanged sides of those drawn so."""
    if not (plan["skipped"] or plan["exchanged"]):
        return split
    skipped = {int(image_id) for image_id in plan["skipped"]}
    truth = split.ground_truth
    images = [image for image in truth["images"] if image["id"] not in skipped]
    entries = [entry for entry in truth["annotations"] if entry["image_id"] not in skipped]
    rest = replace(
        split,
        records=[record for record in split.records if record.image_id not in skipped],
        ground_truth={**truth, "images": images, "annotations": entries},
    )
    return exchange_sides(rest, set(plan["exchanged"]))


def _write_planned(
    folder: Path, name: str, split: Split, inspector: Inspector, encoding: ImageEncoding, threads: int
) -> dict[str, Any]:
    records = split.records

    def encode(index: int) -> bytes:
        return encoding.encode(inspector.read(index), records[index].file_name)

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
        return record.path.stat().st_size
    except OSError:  # missing: reading says so
        return 0


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
    for path in (*folder.glob("*.sums"), *folder.glob("*.plan")):
        path.unlink()
