"""Doubts about which images are in which split: in both, under several ids, or in none."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping

from m2det.data.checks.files import location
from m2det.data.findings import MAX_EXAMPLES, Finding
from m2det.data.pictures import SUFFIXES
from m2det.data.sources.records import ImageRecord, Split
from m2det.errors import InputError
from m2det.files.regular_file import open_regular

MAX_COMPARED = 20_000  # files of equal size whose contents are compared
HEAD = 1 << 16  # bytes that are compared: files of one size that begin alike are taken for the same


def check_splits(splits: Mapping[str, Split], sizes: Mapping[str, int]) -> Iterator[Finding]:
    """Yield the doubts about the images of splits. Args as of check_repeats."""
    yield from check_repeats(splits, sizes)
    yield from _unnamed(splits)


def check_repeats(splits: Mapping[str, Split], sizes: Mapping[str, int]) -> Iterator[Finding]:
    """Yield which images are in several splits, or in one under several ids.

    Args:
        splits: by name.
        sizes: bytes of each image file that exists, by location; of files without a size the paths alone are compared.
    """
    paths = {name: [location(record) for record in split.records] for name, split in splits.items()}
    same = _contents(paths, sizes)
    seen: dict[object, tuple[str, str]] = {}
    for name, split in splits.items():
        own: dict[object, ImageRecord] = {}
        repeated, both = [], []
        for record, path in zip(split.records, paths[name], strict=True):
            key = same.get(path, path)
            if key in own:
                repeated.append(f"{record.file_name} (ids {own[key].image_id} and {record.image_id})")
            elif key in seen:
                both.append(f"{path} is {seen[key][1]} of {seen[key][0]}")
            own.setdefault(key, record)
        seen |= {key: (name, location(record)) for key, record in own.items() if key not in seen}
        if repeated:
            text = f"{len(repeated)} images occur before in this split under other ids or names: list each image once"
            yield Finding("image-repeated", text, len(repeated), tuple(repeated[:MAX_EXAMPLES]), name)
        if both:
            text = (
                f"{len(both)} of {len(split.records)} images are in another split, too: AP on images that were "
                "trained on says nothing; keep each in one"
            )
            yield Finding("image-in-both", text, len(both), tuple(both[:MAX_EXAMPLES]), name)


def _contents(paths: Mapping[str, list[str]], sizes: Mapping[str, int]) -> dict[str, object]:
    """Return a key for each file that may be the same as another: its size and a sum of how it begins."""
    numbers = Counter(sizes[path] for path in {path for each in paths.values() for path in each} if path in sizes)
    candidates = {path for each in paths.values() for path in each if path in sizes and numbers[sizes[path]] > 1}
    if len(paths) > 1 and len(candidates) > MAX_COMPARED:  # of the largest split those alone that others may have
        largest = max(paths, key=lambda name: len(paths[name]))
        elsewhere = {sizes[path] for name, each in paths.items() if name != largest for path in each if path in sizes}
        candidates = {path for path in candidates if sizes[path] in elsewhere}
    if len(candidates) > MAX_COMPARED:
        return {}
    keys: dict[str, object] = {}
    for path in candidates:
        try:
            with open_regular(path) as file:
                keys[path] = sizes[path], zlib.crc32(file.read(HEAD))
        except (InputError, OSError):  # damaged ones are told elsewhere
            continue
    return keys


def _unnamed(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Yield the image files of the folders that no record names."""
    records = [record for split in splits.values() for record in split.records]
    named = {os.path.normpath(location(record)) for record in records}
    for folder in sorted({record.folder.path for record in records}):
        found = [
            path
            for parent, _, files in os.walk(folder)
            for file in files
            if os.path.splitext(file)[1].lower() in SUFFIXES  # noqa: PTH122 - quicker
            and (path := os.path.normpath(f"{parent}/{file}")) not in named
        ]
        if found:
            text = f"{len(found)} images in {folder} are named by no annotation file and not used"
            yield Finding("unnamed-images", text, len(found), tuple(sorted(found)[:MAX_EXAMPLES]))
