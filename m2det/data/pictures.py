"""Finding the pictures that a user names, as files or folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from m2det.errors import InputError
from m2det.files.regular_file import require_regular

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """Return files as given, and of folders their pictures in name order.

    In a folder, other folders are skipped, and names that are no regular files are left out with a warning on stderr.

    Raises:
        InputError: a path does not exist or is no regular file, or a folder holds no pictures.
    """
    pictures: list[Path] = []
    for path in paths:
        inside = _pictures_in(path) if path.is_dir() else [_require_file(path)]
        if not inside:
            raise InputError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
        pictures += inside
    return pictures


def _pictures_in(folder: Path) -> list[Path]:
    pictures = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        try:
            pictures.append(_require_file(path))
        except InputError as error:
            if not os.path.isdir(path):  # noqa: PTH112 - Path's raises where a link leads into a closed folder
                print(f"left out: {error}", file=sys.stderr)
    return pictures


def _require_file(path: Path) -> Path:
    try:
        require_regular(path, path.stat())
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    return path
