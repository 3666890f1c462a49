"""The folder of a data set as its user has it: which files there are, and their contents, for any layout."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from posixpath import basename, dirname, normpath

from m2det.data.no_image import describe_no_image
from m2det.data.orientation import PNG_START
from m2det.data.sources.image_folder import ADVICE, ImageFolder, leaves_folder
from m2det.errors import InputError

IMAGES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff")
HEAD = 1 << 18  # bytes: an image's size stands in them, behind camera's data and thumbnail
LISTED = 3  # names that a sentence quotes


class BadImage(InputError):
    """An image that is missing, damaged, no image or of another size than labelled: `pack.on_bad_image: skip` does."""


@dataclass(frozen=True)
class Tree:
    """A folder and all below it. Names are relative to the root, with slashes.

    outside: whether links, .. and absolute names may lead out of the root.
    """

    root: Path
    outside: bool = False

    @cached_property
    def files(self) -> list[str]:
        """All files but hidden ones, sorted. Raises InputError for a link to a folder that leads out of the root."""
        return sorted(self._walk(""))

    @cached_property
    def images(self) -> list[str]:
        """The files that are images by their suffix."""
        return [name for name in self.files if is_image(name)]

    @cached_property
    def images_of_stem(self) -> dict[str, list[str]]:
        """The images by their name without folders and suffix."""
        found = defaultdict(list)
        for name in self.images:
            found[stem(name)].append(name)
        return dict(found)

    @cached_property
    def files_of_name(self) -> dict[str, list[str]]:
        """The files by their name without folders."""
        found = defaultdict(list)
        for name in self.files:
            found[basename(name)].append(name)
        return dict(found)

    def below(self, folder: str) -> list[str]:
        """Return the files below a folder, which may lie outside of the root where that is allowed."""
        if leaves_folder(folder):
            return sorted(self._walk(folder))
        return self.files if folder == "." else [name for name in self.files if name.startswith(f"{folder}/")]

    def has(self, name: str) -> bool:
        """Return whether the file exists."""
        return os.path.isfile(self.root / name) if leaves_folder(name) else name in self._names  # noqa: PTH113

    def has_folder(self, name: str) -> bool:
        """Return whether the folder exists."""
        return os.path.isdir(self.root / name)  # noqa: PTH112 - Path's raises for a name too long for a disk

    def read(self, name: str, size: int = -1) -> bytes:
        """Return a file's first bytes, all by default. Raises InputError as ImageFolder.read does."""
        return ImageFolder(self.root, self.outside).read(name, size)

    def read_end(self, name: str, size: int) -> bytes:
        """Return a file's last bytes. Raises InputError as ImageFolder.read does."""
        return ImageFolder(self.root, self.outside).read(name, size, from_end=True)

    def measure(self, name: str, size_of: Callable[[bytes], tuple[int, int] | None]) -> tuple[int, int]:
        """Return what size_of makes of an image's bytes, of the first of them if these suffice.

        Raises:
            InputError: the file cannot be read.
            BadImage: the file is no image.
        """
        head = self.read(name, HEAD)
        whole = head.startswith(PNG_START)  # whose orientation may stand behind its pixels
        size = (not whole and size_of(head)) or size_of(self.read(name))
        if not size:
            raise BadImage(f"{self.root / name} {describe_no_image(head)}")
        return size

    def name_of(self, path: str) -> str:
        """Return the name of a path that is relative to the root or absolute."""
        return normpath(os.path.relpath(path, self.root) if path.startswith("/") else path)

    def may_read(self, name: str) -> bool:
        """Return whether the name does not lead out of the root, or may; links show once the file is read."""
        return self.outside or not leaves_folder(name)

    def leads_out(self, name: str, where: str) -> InputError:
        """Return the error for a name that may not be read."""
        return InputError(f"{where} is {name!r}, which leads out of {self.root}; {ADVICE}")

    @cached_property
    def _names(self) -> set[str]:
        return set(self.files)

    def _walk(self, folder: str) -> Iterator[str]:
        """Yield the files below a folder. Raises InputError for a link to a folder that leads out of the root."""
        start, real = self.root / folder, os.path.realpath(self.root)
        seen: set[str] = set()
        for parent, folders, names in os.walk(start, followlinks=True):
            where = os.path.realpath(parent)
            if not (self.outside or where == real or where.startswith(os.path.join(real, ""))):  # noqa: PTH118
                raise InputError(f"{parent} leads to {where}, out of {self.root}; {ADVICE}")
            if where in seen:  # a link to a folder above it
                folders.clear()
                continue
            seen.add(where)
            folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
            prefix = os.path.join(folder, os.path.relpath(parent, start))  # noqa: PTH118
            yield from (normpath(f"{prefix}/{name}") for name in names if not name.startswith("."))


def is_image(name: str) -> bool:
    """Return whether the name is an image's by its suffix."""
    return name.lower().endswith(IMAGES)


def stem(name: str) -> str:
    """Return a name without its folders and its suffix."""
    base = basename(name)
    return base[: base.rfind(".")] if "." in base[1:] else base


def nearest(name: str, candidates: Sequence[str]) -> list[str]:
    """Return those of the candidates whose folders share most with those of the name."""
    parts = dirname(name).split("/")

    def shared(candidate: str) -> tuple[int, int]:
        own = dirname(candidate).split("/")
        first = next((k for k, pair in enumerate(zip(parts, own, strict=False)) if pair[0] != pair[1]), 1000)
        # Annotations/train/a.xml belongs to JPEGImages/train/a.jpg: folders are also compared wherever they stand
        return min(first, len(parts), len(own)), len({*parts} & {*own})

    best = max(map(shared, candidates), default=(0, 0))
    return [candidate for candidate in candidates if shared(candidate) == best]


def some(names: Sequence[str]) -> str:
    """Return the first names, for a sentence."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
