"""Every record of a packed cache, read and decoded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from m2det.data.image import check_jpeg_is_whole, check_size
from m2det.data.store import PackedSplit, read_manifest
from m2det.errors import InputError


def bad_records(cache: Path) -> Iterator[str]:
    """A sentence for each record that differs from what was packed, or is no image of its size; with progress.

    Raises InputError where there is no finished cache.
    """
    for name in read_manifest(cache)["splits"]:
        try:
            split = PackedSplit(cache, name)
        except InputError as error:  # the whole split is unreadable; the next may not be
            yield str(error)
            continue
        for index in tqdm(range(len(split)), f"verifying {name}", unit="image"):
            what = f"{name}: image {split.image_ids[index]} ({split.file_names[index]})"
            try:
                data = split.record(index)
                check_jpeg_is_whole(data, what)
                check_size(data, what, *split.storage.size(*split.sizes[index].tolist()))
            except InputError as error:
                yield str(error)
