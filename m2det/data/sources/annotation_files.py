"""The files of a data source that its objects come from, by names alone: what to look at for a corrected label.

A new source needs one entry of `LISTERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from m2det.config import DataParams

# a name to report by -> files, relative to the root; a folder of many files is one name
Groups = dict[str, list[str]]
MADE_HERE = ("digits", "coco2014-download")  # by the stage `data`, whose code fixes what they are


def annotation_files(data: DataParams, root: Path) -> Groups:
    """Return the annotation files of a data source, those that exist, by the names under which they are reported.

    Args:
        data: the section `data`.
        root: the folder that its files are relative to.
    """
    groups = LISTERS[data.source](data, root)
    existing = {name: [file for file in files if (root / file).is_file()] for name, files in groups.items()}
    return {name: sorted(files) for name, files in sorted(existing.items()) if files}


def _none(_data: DataParams, _root: Path) -> Groups:
    """Return no file, for the sources in MADE_HERE."""
    return {}


def _coco(data: DataParams, _root: Path) -> Groups:
    return {entry.annotations: [entry.annotations] for entry in (*data.train, *data.val)}


def _coco2014(_data: DataParams, root: Path) -> Groups:
    from m2det.data.sources.coco2014 import usable_splits

    return {name: [name] for name, _ in usable_splits(root)}


def _voc(_data: DataParams, root: Path) -> Groups:
    return {
        folder: [*_files(root, folder)]
        for year in ("VOC2007", "VOC2012")
        for folder in (f"{year}/ImageSets/Main", f"{year}/Annotations")
    }


def _files(root: Path, folder: str) -> Iterator[str]:
    if (root / folder).is_dir():
        with os.scandir(root / folder) as entries:
            yield from (f"{folder}/{entry.name}" for entry in entries)


LISTERS: dict[str, Callable[[DataParams, Path], Groups]] = {
    "digits": _none,
    "coco": _coco,
    "coco2014": _coco2014,
    "coco2014-download": _none,
    "voc": _voc,
}
