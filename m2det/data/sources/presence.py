"""What a data source needs and is not there, by names of files alone: known before anything is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from m2det.config import DataParams
from m2det.data.sources.coco2014 import ADVICE, absent_archives, require_room, usable_splits
from m2det.data.sources.detect_format import find_layout
from m2det.data.sources.manifest import missing_paths, roots_of
from m2det.errors import InputError

WHERE_YOURS_IS = "check data.root, data.train, data.val and data.test in params.yaml"


def missing_files(data: DataParams, base: Path, with_test: bool = False) -> Iterator[str]:
    """Yield a sentence for each file and folder that the stage `data` would miss.

    Args:
        data: the section `data`.
        base: the folder that data.root is relative to.
        with_test: as of find_layout.
    """
    roots = roots_of(data, base)
    root = roots[1]
    if data.source == "coco2014-download":
        yield from _no_room(root)
    elif data.source != "digits" and not root.is_dir():
        yield f"data.root: {root} is no folder; give the one with your annotations and images"
        return
    elif data.source == "coco2014":
        yield from missing_paths(roots, usable_splits(root), ADVICE)
    elif data.train:
        yield from missing_paths(roots, [(e.annotations, e.images) for e in (*data.train, *data.val)], WHERE_YOURS_IS)
    elif data.source != "digits":
        yield from _no_layout(data, root, with_test)
    yield from missing_paths(roots, [(e.annotations, e.images) for e in data.test], WHERE_YOURS_IS)


def _no_layout(data: DataParams, root: Path, with_test: bool) -> Iterator[str]:
    try:
        find_layout(data, root, with_test)
    except InputError as error:
        yield str(error)


def _no_room(root: Path) -> Iterator[str]:
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    try:
        require_room(existing, absent_archives(root))
    except InputError as error:
        yield str(error)
