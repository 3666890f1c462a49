"""The times of image files: an image replaced by another of the same size is told.

They lie beside the manifest's folder, not in it: DVC hashes the manifest, and data that were copied have other times.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from m2det.files.whole import write_whole

log = logging.getLogger(__name__)

NAME = "image_times.json"


def write_times(manifest: Path, root: Path, target: Path) -> None:
    """Write the times of the images that a manifest lists.

    Args:
        manifest: as write_manifest wrote it.
        root: the folder that its image folders are relative to.
        target: the file to write.
    """
    write_whole(target, json.dumps({path: _time(root / path) for path in _images(manifest)}))


def warn_of_other_times(manifest: Path, root: Path, times_file: Path) -> None:
    """Warn of images whose time is not that of the stage `data`; nothing where its times are not known."""
    try:
        times = json.loads(times_file.read_bytes())
    except (OSError, ValueError):  # a clone that has pulled, or a file that was damaged
        return
    changed = [name for name in _images(manifest) if name in times and times[name] != _time(root / name)]
    if changed:
        log.warning(
            "%d images have another time than when the stage `data` ran, the first is %s; if they are other images "
            "now, run `dvc repro -f pack`, else `dvc repro -f data`",
            len(changed),
            root / changed[0],
        )


def _images(manifest: Path) -> Iterator[str]:
    """Yield the images' paths relative to the root."""
    for entries in json.loads(manifest.read_bytes()).values():
        for entry in entries:
            yield from (f"{entry['images']}/{name}" for name in entry["files"])


def _time(path: Path) -> int:
    """Return when the file's content last changed, ns; 0 if it is gone."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - quicker
    except OSError:
        return 0
