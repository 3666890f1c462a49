"""The files of a data source that its objects come from, by names alone: what to look at for a corrected label.

A new source needs one entry of `LISTERS`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from posixpath import dirname

from m2det.config import DataParams

# a name to report by -> files, relative to the root; a folder of many files is one name
Groups = dict[str, list[str]]
MADE_HERE = ("digits", "coco2014-download")  # by the stage `data`, whose code fixes what they are


def annotation_files(data: DataParams, root: Path, with_test: bool = False) -> Groups:
    """Return the annotation files of a data source, those that exist, by the names under which they are reported.

    Args:
        data: the section `data`.
        root: the folder that its files are relative to.
        with_test: as of find_layout.
    """
    groups = LISTERS[data.source](data, root, with_test) | {e.annotations: [e.annotations] for e in data.test}
    existing = {name: [file for file in files if (root / file).is_file()] for name, files in groups.items()}
    return {name: sorted(files) for name, files in sorted(existing.items()) if files}


def _none(_data: DataParams, _root: Path, _with_test: bool) -> Groups:
    """Return no file, for the sources in MADE_HERE."""
    return {}


def _coco2014(_data: DataParams, root: Path, _with_test: bool) -> Groups:
    from m2det.data.sources.coco2014 import usable_splits

    return {name: [name] for name, _ in usable_splits(root)}


def _own(data: DataParams, root: Path, with_test: bool) -> Groups:
    """Return a file of JSON by its own name, and the label files of a folder by the folder's."""
    from m2det.data.sources.detect_format import find_layout

    groups = defaultdict(list)
    for file in find_layout(data, root, with_test).annotation_files():
        groups[file if file.endswith(".json") else dirname(file) or "."].append(file)
    return dict(groups)


LISTERS: dict[str, Callable[[DataParams, Path, bool], Groups]] = {
    **dict.fromkeys(("digits", "coco2014-download"), _none),
    **dict.fromkeys(("auto", "coco", "yolo", "voc"), _own),
    "coco2014": _coco2014,
}
