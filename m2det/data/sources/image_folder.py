"""Files that somebody else has named, in annotations or in a folder: which of them are opened.

Only regular files: a FIFO would block, a device might never end. And of a data set only what lies in its image folder:
an annotation file could otherwise carry any file of this machine into the cache, and from there to wherever that goes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from m2det.files.regular_file import _unreadable, read_file, require_regular, require_within

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def name_fault(name: str) -> str:
    """What is wrong with an image's name on any disk, as a phrase; empty for a name that a file can have."""
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
    """Whether a name says by itself that the file may lie elsewhere; links show on the disk alone."""
    return name.startswith("/") or ".." in name.split("/")


@dataclass(frozen=True)
class ImageFolder:
    """The images of one annotation file. The folder may be a link itself.

    outside: whether they may lie elsewhere, by links, absolute names, or `..` in names.
    """

    path: Path
    outside: bool = False

    @cached_property
    def _real(self) -> str:
        return os.path.realpath(self.path)

    def read(self, name: str) -> bytes:
        """Raises InputError as read_file does."""
        return read_file(os.path.join(self.path, name), "" if self.outside else self._real)  # noqa: PTH118 - quicker

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of each named image that is there; names may have folders of their own.

        Raises InputError for one that is no regular file, or lies elsewhere.
        """
        wanted, found = set(names), {}
        for prefix in sorted({name[: name.rfind("/") + 1] for name in wanted}):
            parent = self.path / prefix
            self._require_within(parent)
            # one scan of a folder is many times faster than a question for each of its files
            for entry in _entries(parent):
                name = prefix + entry.name
                if name not in wanted:
                    continue
                if entry.is_symlink():
                    self._require_within(entry.path)
                try:
                    status = entry.stat()
                except FileNotFoundError:  # a link that leads nowhere
                    continue
                except OSError as error:
                    raise _unreadable(entry.path, error) from error
                require_regular(entry.path, status)
                found[name] = status.st_size
        return {name: found[name] for name in names if name in found}

    def _require_within(self, path: str | Path) -> None:
        if not self.outside:
            require_within(path, os.path.realpath(path), self._real)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
