"""Image files that annotations name: which of them are opened.

Only regular files: a FIFO would block, a device might never end. And only files inside the data set's image folder: an
annotation file could otherwise carry any file of this machine into the cache, and so to other people.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from m2det.errors import InputError
from m2det.files.regular_file import open_regular, real_path, require_regular, unreadable

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
ADVICE = "put the images there, or, if you trust whoever made these files, set data.outside (--outside of data check)"


def name_fault(name: str) -> str:
    """Return what is wrong with an image's name on any disk, as a phrase; empty for a name that a file can have."""
    if not name:
        return "which is empty"
    if CONTROL.search(name):
        return "which holds control characters"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return f"which this system's encoding of names ({sys.getfilesystemencoding()}) does not have"
    return ""


def leaves_folder(name: str) -> bool:
    """Return whether the name alone says that the file may lie outside; links show on the disk only."""
    return name.startswith("/") or ".." in name.split("/")


@dataclass(frozen=True)
class ImageFolder:
    """The images of one annotation file.

    path: of the folder, which may be a link itself.
    outside: whether images may lie outside of it, by links, absolute names, or `..` in names.
    """

    path: Path
    outside: bool = False

    @cached_property
    def _real(self) -> str:
        return os.path.realpath(self.path)

    def read(self, name: str, size: int = -1, from_end: bool = False) -> bytes:
        """Return an image's bytes, or the first or last of them.

        Raises:
            InputError: as open_regular does, and for a file outside.
        """
        path = os.path.join(self.path, name)  # noqa: PTH118 - quicker
        with open_regular(path) as file:
            if not self.outside:
                self._require_within(path, real_path(file, path))
            if from_end:
                file.seek(-min(size, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read(size)

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Return the bytes of each named image that exists; names may have folders of their own.

        Raises:
            InputError: an image is no regular file, or lies outside.
        """
        unique, sizes = set(names), {}
        for prefix in sorted({name[: name.rfind("/") + 1] for name in unique}):
            parent = self.path / prefix
            self._require_within(parent, os.path.realpath(parent))
            # one scan of a folder is many times faster than a question for each of its files
            for entry in _entries(parent):
                name = prefix + entry.name
                if name not in unique:
                    continue
                if entry.is_symlink():
                    self._require_within(entry.path, os.path.realpath(entry.path))
                try:
                    status = entry.stat()
                except FileNotFoundError:  # a link that leads nowhere
                    continue
                except OSError as error:
                    raise unreadable(entry.path, error) from error
                require_regular(entry.path, status)
                sizes[name] = status.st_size
        return {name: sizes[name] for name in names if name in sizes}

    def _require_within(self, path: str | Path, real: str) -> None:
        if not self.outside and real != self._real and not real.startswith(os.path.join(self._real, "")):  # noqa: PTH118
            raise InputError(f"{path} leads to {real}, out of the image folder {self._real}; {ADVICE}")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from error
