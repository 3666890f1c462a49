"""Finding the pictures and videos that a user names: files, folders, patterns."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from m2det.errors import InputError
from m2det.files.regular_file import require_regular

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
VIDEO_SUFFIXES = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif"}
CAMERA = "camera:"  # camera:0 is /dev/video0
WILDCARDS = "*?["
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def require_no_address(name: str) -> None:
    """Raise InputError for an address, such as a URL."""
    if ADDRESS.match(name):
        raise InputError(f"{name}: pictures are not downloaded; download it, and give the file")


@dataclass(frozen=True)
class Source:
    """A picture or video to open.

    path: of the file, or of the camera's device.
    name: of what is written for it, relative to the folder of results: without its own suffix, unless another source
        differs in that alone.
    """

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        """Whether frames come from this, and not one picture."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES or self.is_camera

    @property
    def is_camera(self) -> bool:
        """Whether this never ends by itself."""
        return self.path.parent == Path("/dev") and self.path.name.startswith("video")


def find_sources(
    words: Sequence[str | Path], recursive: bool = False, excluded: Path = Path(os.devnull)
) -> list[Source]:
    """Return the pictures and videos that a user names, each folder's in name order.

    In a folder, names that are no regular files are left out with a warning on stderr.

    Args:
        words: files, folders, patterns such as "photos/*.jpg" (** for folders at any depth), or camera:N.
        recursive: whether folders in folders are searched, too; results then lie in folders of the same names.
        excluded: a folder of earlier results, which is not searched.

    Raises:
        InputError: a path does not exist or is no regular file, or a folder or pattern has no pictures.
    """
    sources: list[Source] = []
    for word in words:
        text, path = str(word), Path(word)
        if not text:
            raise InputError("a name of a picture or folder is empty; the folder where you are is .")
        require_no_address(text)
        if text.startswith(CAMERA):
            sources.append(_camera(text))
        elif path.is_dir():
            inside = list(_sources_in(path, recursive, excluded.resolve()))
            if not inside:
                raise InputError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))}) and no videos")
            sources += inside
        elif any(sign in text for sign in WILDCARDS) and not os.path.lexists(path):
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - absolute too
            if not matches:
                raise InputError(f"{text} matches no file")
            sources += [Source(match, Path(match.stem)) for match in matches if _is_regular(match)]
        else:
            sources.append(Source(_require_file(path), Path(path.stem)))
    count = Counter((source.name, source.is_video) for source in sources)
    return [_with_own_suffix(source) if count[source.name, source.is_video] > 1 else source for source in sources]


def _with_own_suffix(source: Source) -> Source:
    return Source(source.path, source.name.with_name(source.name.name + source.path.suffix))


def _camera(text: str) -> Source:
    number = text.removeprefix(CAMERA)
    device = Path(f"/dev/video{number}")
    if not number.isdecimal() or not device.exists():
        raise InputError(f"{text}: there is no {device}; cameras are camera:0, camera:1, ... on Linux")
    return Source(device, Path(f"camera{number}"))


def _sources_in(folder: Path, recursive: bool, excluded: Path) -> Iterator[Source]:
    paths = folder.rglob("*") if recursive else folder.iterdir()
    for path in sorted(p for p in paths if p.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES):
        if excluded not in path.absolute().parents and _is_regular(path):
            yield Source(path, path.relative_to(folder).with_suffix(""))


def _is_regular(path: Path) -> bool:
    try:
        _require_file(path)
    except InputError as error:
        if not os.path.isdir(path):  # noqa: PTH112 - Path's raises where a link leads into a closed folder
            print(f"left out: {error}", file=sys.stderr)
        return False
    return True


def _require_file(path: Path) -> Path:
    try:
        require_regular(path, path.stat())
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    return path
