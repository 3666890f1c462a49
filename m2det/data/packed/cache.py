"""Pack the splits of a data set into one cache: what the stage `pack` and `m2det.train_detector` have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from m2det.config import PackParams
from m2det.data.inspection import Fault, ImageFaults, describe_faults
from m2det.data.jpeg import jpeg_decoder
from m2det.data.packed.encoding import ImageEncoding
from m2det.data.packed.writer import ORIGINAL, finish_cache, require_room, write_split
from m2det.data.sources.fault_list import refuse, write_list
from m2det.data.sources.records import Category, Split
from m2det.data.upright import Setting
from m2det.distributed.lifetime import keep_freed_memory, usable_cores
from m2det.errors import InputError

MAX_THREADS = 32  # each needs the interpreter, which is one, for some hundredths of its time


def require_boxes(train: Split) -> None:
    """Raise InputError for a training split without a box."""
    if not any((~record.iscrowd).any() for record in train.records):  # crowds and VOC's difficult are not trained on
        reasons = "".join(f"; {note.text}" for note in train.notes)
        if crowds := sum(len(record.iscrowd) for record in train.records):
            reasons = f"; {crowds} are crowds (iscrowd 1) or marked difficult, which training leaves out{reasons}"
        raise InputError(f"the training annotations have no usable box: there is nothing to learn from{reasons}")


def write_cache(
    folder: Path,
    splits: Mapping[str, Split],
    categories: list[Category],
    settings: PackParams,
    orientation: Setting,
    report: Path,
    after_split: Callable[[], object] = lambda: None,
) -> None:
    """Write a packed cache, its manifest last; an interrupted call is continued.

    Args:
        folder: of the cache; it exists.
        splits: by name; of `train` images are kept as the settings say, of others as they are.
        categories: of all splits.
        settings: the section `pack`.
        orientation: which pixels boxes are of.
        report: the file that takes all sentences on images that are refused.
        after_split: called after each split.

    Raises:
        InputError: images are missing or not as annotated, or the disk is too small.
    """
    keep_freed_memory()
    jpeg_decoder()  # chosen here, before threads ask for it at once
    encodings = {"train": ImageEncoding(settings.images, settings.side, settings.quality)}
    threads = min(usable_cores(), MAX_THREADS)
    total = 0
    for name, split in splits.items():
        encoding, number = encodings.get(name, ORIGINAL), len(split.records)
        expected = encoding.expected_bytes(split.records)
        print(f"{name}: {number} images, about {expected / 1e6:.0f} MB of disk as {encoding.images}", flush=True)
        total += expected + number * 4096  # LMDB's pages and tree, annotations
    require_room(folder, total)
    entries, faults = {}, []
    skip = settings.on_bad_image == "skip"
    for name, split in splits.items():
        encoding = encodings.get(name, ORIGINAL)
        try:
            entries[name] = write_split(folder, name, split, settings.verify, encoding, threads, orientation, skip)
        except ImageFaults as error:
            faults += error.faults  # those of the next split are to be told, too
        after_split()
    if faults:
        _refuse(faults, report)
    finish_cache(folder, categories, entries)


def image_times(splits: Iterable[Split]) -> NDArray[np.int64]:
    """Return when each image's content last changed, ns; 0 where it is missing. Sizes may stay when images change."""
    return np.array([_mtime(record.path) for split in splits for record in split.records], np.int64)


def _mtime(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - quicker
    except OSError:  # missing: packing says so, or skips it
        return 0


def _refuse(faults: list[Fault], path: Path) -> NoReturn:
    """Print the first faults, write all to a file, and raise InputError."""
    sentences = describe_faults(faults)
    if len(sentences) == 1:
        write_list(sentences, path)
        raise InputError(sentences[0])
    advice = "" if any(fault.kind != "bad" for fault in faults) else ", or set pack.on_bad_image: skip"
    refuse(sentences, path, f"{len(faults)} images cannot be packed", f"correct them{advice}")
