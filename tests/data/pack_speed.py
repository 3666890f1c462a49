"""Packing against copying and decoding alone: `python -m tests.data.pack_speed` (docs/benchmarks/packing.md).

The images are COCO's in ../shared, linked under many names; each way is taken in turn, the best of its rounds counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from m2det.data.jpeg import decode_bgr, jpeg_decoder
from m2det.data.ordered_map import ordered_map
from m2det.data.orientation import jpeg_size
from m2det.data.packed.writer import write_split
from m2det.data.sources.image_folder import ImageFolder
from m2det.data.sources.records import Category, ImageRecord, Split
from m2det.distributed.lifetime import keep_freed_memory, usable_cores
from tests.conftest import ROOT


def linked(folder: Path, jpegs: list[Path], count: int) -> list[ImageRecord]:
    folder.mkdir()
    boxes, none = np.zeros((0, 4), np.float32), np.zeros(0, np.int16)
    records = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        os.link(jpegs[number % len(jpegs)], path)
        width, height = jpeg_size(path.read_bytes())
        records.append(
            ImageRecord(number, path.name, ImageFolder(folder), width, height, boxes, none, none > 0, boxes[:, 0])
        )
    return records


def copy(records: list[ImageRecord], target: Path) -> None:
    """Into one file, synced: what a disk allows."""
    with target.open("wb") as out:
        for record in records:
            out.write(record.path.read_bytes())
        out.flush()
        os.fsync(out.fileno())


def decode(records: list[ImageRecord], chunk: range) -> None:
    for record in records[chunk.start : chunk.stop]:
        decode_bgr(record.path.read_bytes(), record.file_name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2500, help="images (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    arguments = parser.parse_args()
    threads = usable_cores()
    keep_freed_memory()
    jpeg_decoder()
    with tempfile.TemporaryDirectory(dir=ROOT / "data") as name:
        root = Path(name)
        jpegs = []
        for number, path in enumerate(sorted((ROOT.parent / "shared/coco2014-mini/images").rglob("*.jpg"))):
            jpegs.append(Path(shutil.copy(path, root / f"{number}.jpg")))
        records = linked(root / "images", jpegs, arguments.count)
        size = sum(record.path.stat().st_size for record in records)
        split = Split(records, [Category(1, "thing")], {}, 0, {})
        chunks = [range(start, min(start + 8, len(records))) for start in range(0, len(records), 8)]

        def packed(verify: str) -> None:
            write_split(root / "cache", "train", split, verify, threads=threads)

        def decoded() -> None:
            for _ in ordered_map(chunks, partial(decode, records), threads, len, 400):
                pass

        ways = {
            "a copy with fsync": lambda: copy(records, root / "copy"),
            "packing, verify: header": lambda: packed("header"),
            "decoding alone, all cores": decoded,
            "packing, verify: decode": lambda: packed("decode"),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(arguments.rounds):
            for title, way in ways.items():
                shutil.rmtree(root / "cache", ignore_errors=True)
                (root / "copy").unlink(missing_ok=True)
                (root / "cache").mkdir()
                os.sync()
                start = time.perf_counter()
                way()
                best[title] = min(best[title], time.perf_counter() - start)
    load = os.getloadavg()[0]
    print(f"{len(records)} images, {size / 1e6:.0f} MB, {threads} threads, load at the end {load:.1f}")
    for title, seconds in best.items():
        print(f"{title:<28}{seconds:6.2f} s {len(records) / seconds:8.0f} img/s {size / seconds / 1e6:8.0f} MB/s")


if __name__ == "__main__":
    main()
