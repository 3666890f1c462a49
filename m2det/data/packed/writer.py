"""Writing the packed cache (m2det.data.packed.reader): threads prepare images, one writes them in order.

What was interrupted goes on from its last commit, and the bytes depend neither on that nor on who prepared what.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any

import lmdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from m2det.data.image_checks import check_header, check_size
from m2det.data.ordered_map import ordered_map
from m2det.data.packed.encoding import ImageEncoding
from m2det.data.packed.reader import FORMAT, SCHEMA, key_of
from m2det.data.sources.coco import Category, ImageRecord, Split
from m2det.errors import InputError
from m2det.files.regular_file import require_regular

RECORDS_PER_COMMIT = 1000  # fixed, like the map size: the same input must give the same bytes
BYTES_PER_COMMIT = 16 << 20  # or sooner: LMDB holds them in memory until then, copied faster while caches hold them too
RECORDS_PER_PART, BYTES_PER_PART = 64, 1 << 20  # what a thread prepares at a time, or a single record
BYTES_WAITING = 64 << 20  # of parts that are prepared, or are to be, and not yet written
ORIGINAL = ImageEncoding()

Check = Callable[[bytes, ImageRecord], None]
Prepared = tuple[bytes, int]  # as stored, and its crc32


def write_split(
    folder: Path, name: str, split: Split, check: Check, storage: ImageEncoding = ORIGINAL, threads: int = 1
) -> dict[str, Any]:
    """Write one split, with a progress bar, and return its manifest entry; continues what an interrupted call left.

    check: raises InputError naming an image that is not what its record says; called in `threads` threads.
    """
    sizes = [storage.most_bytes(r.width, r.height, _file_size(r)) for r in split.records]
    # values live in pages of their own of 4 KiB; a tenth and 64 MiB for the tree
    map_size = sum(-(-size // 4096) * 4096 + 4096 for size in sizes) * 11 // 10 + (64 << 20)
    path = folder / f"{name}.lmdb"
    prepare = partial(_prepare, split.records, check, storage)
    try:
        sums = _write_values(path, map_size, sizes, prepare, threads)
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError, lmdb.PageNotFoundError) as error:
        raise InputError(f"{path} is damaged ({error}); delete {folder} and give the command again") from error
    except lmdb.Error as error:
        raise InputError(f"{path} cannot be written ({error}); make room on its disk") from error
    table, truth = (folder / f"{name}.{kind}" for kind in ("arrow", "json"))
    _write_arrow(table, split.records, sums[:, 0])
    truth.write_text(json.dumps(split.ground_truth, separators=(",", ":")) + "\n")
    return {
        "images": len(sums),
        "boxes": sum(int((~r.iscrowd).sum()) for r in split.records),
        "crowds": sum(int(r.iscrowd.sum()) for r in split.records),
        "clipped": split.clipped,
        "dropped": dict(sorted(split.dropped.items())),
        "bytes": int(sums[:, 1].sum()),
        "stored": asdict(storage),
        "lmdb_bytes": path.stat().st_size,
        "crc32": {file.name: zlib.crc32(file.read_bytes()) for file in (table, truth)},  # each image's is in the table
    }


def require_room(folder: Path, size: int) -> None:
    """Raises InputError where the disk has no room for `size` bytes, those that are in the folder counted."""
    there = sum(path.stat().st_size for path in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if there + free < size:
        raise InputError(
            f"{folder}: this needs {(size - there) / 1e6:.0f} MB more, its disk has {free / 1e6:.0f} MB; make room"
        )


def _write_values(
    path: Path,
    map_size: int,
    sizes: list[int],
    prepare: Callable[[range], list[Prepared]],
    threads: int,
) -> NDArray[np.uint32]:
    """Write the images that are not yet there; returns crc32 and length of all [N,2]."""
    sums_path = path.with_suffix(".sums")
    if not sums_path.exists():
        path.unlink(missing_ok=True)  # not even its first pages are sure to be whole
    with _environment(path, map_size) as env:
        done = env.stat()["entries"]
    weigh = partial(_weigh, sizes)
    title = f"packing {path.stem}"
    if done:
        print(f"{title}: continues after {done} of {len(sizes)} images", flush=True)
    with (
        sums_path.open("ab") as sums,
        tqdm(total=len(sizes), initial=done, desc=title, unit="image") as bar,
        closing(ordered_map(_parts(sizes, done), prepare, threads, weigh, BYTES_WAITING)) as parts,
    ):
        sums.truncate(done * 8)  # those of a commit that was not reached
        values = (value for part in parts for value in part)
        while done < len(sizes):
            # opened anew for each transaction: pages that LMDB recycles in memory keep, behind their contents, bytes
            # of older pages; so a commit depends on the file alone, and an interrupted pack ends with the same bytes
            with _environment(path, map_size) as env:
                written = _write_transaction(env, done, values, sums)
            done += written
            bar.update(written)
    return np.fromfile(sums_path, np.uint32).reshape(-1, 2)


def _environment(path: Path, map_size: int) -> Any:
    # synced at each commit, or a power cut could take more than the last one
    return closing(lmdb.open(str(path), map_size=map_size, subdir=False, lock=False, writemap=False))


def _write_transaction(env: Any, first: int, values: Iterator[tuple[bytes, int]], sums: IO[bytes]) -> int:
    """Write values up to a commit, whose place follows from them alone; returns how many."""
    held: list[tuple[int, int]] = []
    size = 0
    with env.begin(write=True) as transaction:
        for value, crc in values:
            transaction.put(key_of(first + len(held)), value, append=True)
            held.append((crc, len(value)))
            size += len(value)
            if len(held) == RECORDS_PER_COMMIT or size >= BYTES_PER_COMMIT:
                break
        sums.write(np.array(held, np.uint32).tobytes())  # first: there is a sum for each record that is committed
        sums.flush()
        os.fsync(sums.fileno())
    return len(held)


def _parts(sizes: Sequence[int], first: int) -> Iterator[range]:
    """Indices from `first` on, in runs of no more bytes than a thread is to hold."""
    held = 0
    for end in range(first + 1, len(sizes) + 1):
        held += sizes[end - 1]
        if held >= BYTES_PER_PART or end - first == RECORDS_PER_PART or end == len(sizes):
            yield range(first, end)
            first, held = end, 0


def _weigh(sizes: Sequence[int], indices: range) -> int:
    return sum(sizes[indices.start : indices.stop])


def _prepare(records: list[ImageRecord], check: Check, storage: ImageEncoding, indices: range) -> list[Prepared]:
    values: list[Prepared] = []
    for record in records[indices.start : indices.stop]:
        data = record.read()
        check(data, record)
        value = storage.encode(data, record.file_name)
        values.append((value, zlib.crc32(value)))
    return values


def _file_size(record: ImageRecord) -> int:
    try:
        status = record.path.stat()
    except OSError as error:  # a name too long for the disk, say
        raise InputError(
            f"image {record.image_id} is missing: {record.path} is not there; put it there, or remove it "
            "from the annotations and run `dvc repro -f data`"
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

    table = pa.table(
        {
            "image_id": [r.image_id for r in records],
            "file_name": [r.file_name for r in records],
            "width": [r.width for r in records],
            "height": [r.height for r in records],
            "boxes": per_object([r.boxes for r in records]),
            "labels": per_object([r.labels for r in records]),
            "iscrowd": per_object([r.iscrowd for r in records]),
            "area": per_object([r.area for r in records]),
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
    for path in folder.glob("*.sums"):
        path.unlink()


def _is_whole(data: bytes, record: ImageRecord) -> None:
    check_header(data, _name(record), record.width, record.height)


def _decodes(data: bytes, record: ImageRecord) -> None:
    check_size(data, _name(record), record.width, record.height)


def _name(record: ImageRecord) -> str:
    return f"image {record.image_id} ({record.path})"


CHECKS = {"decode": _decodes, "header": _is_whole}


MEANING = {
    "decode": "decoding each",
    "header": "markers and size alone (pack.verify: decode finds those of which a part is lost, too)",
}
