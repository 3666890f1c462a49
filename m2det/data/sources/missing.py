"""Why images that annotations name are not in their folder: what the names differ in, and what would match."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from m2det.data.sources.tree import is_image

MAX_FILES = 1_000_000  # names of a folder that are compared


REMEDY = "rename the files, or correct file_name or the image folder in the annotations' entry"
ADDED = re.compile(
    r"^[0-9a-f]{8}-|_(?:jpe?g|png|bmp|webp)(?=\.rf\.)|\.rf\.[0-9a-z]{10,64}"
)  # by Label Studio, Roboflow


def explain_missing(folder: Path, missing: Sequence[str], remedy: str = REMEDY, anywhere: bool = False) -> str:
    """Return what the missing images' names and the folder's files differ in, with an example and the remedy.

    Args:
        folder: of the images; it may be absent.
        missing: names that are no files in the folder.
        remedy: what to do, for the end of the phrase.
        anywhere: whether the files may lie in any folder below.

    Returns:
        A phrase for the end of a sentence; empty if no file of the folder has a similar name.
    """
    names = _Names(_files(folder), anywhere)
    found: dict[str, list[tuple[str, str]]] = {}
    for name in missing:
        if match := names.similar(name):
            fault, there = match
            found.setdefault(fault, []).append((name, there))
    parts = []
    for fault, pairs in found.items():
        prefix = _common_prefix(pairs) if fault == FOLDERS else ""
        more = f" ({prefix})" if prefix else ""
        parts.append(f"{len(pairs)} differ in {fault}{more}: {pairs[0][0]!r} is there as {pairs[0][1]!r}")
    return f"{'; '.join(parts)}; {remedy}" if parts else ""


def _plain(name: str) -> str:
    return os.path.normpath(name.replace("\\", "/"))


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", _plain(name))


def _folded(name: str) -> str:
    return _nfc(name).casefold()


def _base(name: str) -> str:
    return _plain(name).rpartition("/")[2]


def _stem(name: str) -> str:
    base = _folded(_base(name))
    return base.rpartition(".")[0] or base


FOLDERS, SUFFIX = "folders before the name", "the suffix"
# by what names become equal, from the least change to the most
KEYS: dict[str, Callable[[str], str]] = {
    "slashes": _plain,
    "spaces at an end": str.strip,
    "Unicode form (composed or decomposed letters)": _nfc,
    "upper and lower case": _folded,
    "%-encoding": lambda name: _folded(unquote(name)),
    FOLDERS: _base,
    f"{FOLDERS} and Unicode form": lambda name: _nfc(_base(name)),
    f"{FOLDERS} and upper and lower case": lambda name: _folded(_base(name)),
    "what a label tool has added": lambda name: ADDED.sub("", _folded(_base(name))),
    SUFFIX: _stem,
}


class _Names:
    """The files of a folder by what is left of their names when a fault is taken away."""

    def __init__(self, files: Sequence[str], anywhere: bool) -> None:
        self._files, self._anywhere = files, anywhere
        self._groups: dict[tuple[str, int], dict[str, list[str]]] = {}

    def similar(self, name: str) -> tuple[str, str] | None:
        """Return the least fault by which one file alone differs from the name, and that file."""
        depth = _plain(name).count("/") + 1 if self._anywhere else 0  # parts of names that are compared
        for fault, key in KEYS.items():
            matches = self._by_key(fault, depth).get(key(name), ())
            if len(matches) == 1:
                return fault, matches[0]
        return None

    def _by_key(self, fault: str, depth: int) -> dict[str, list[str]]:
        if (fault, depth) not in self._groups:
            groups = self._groups[fault, depth] = defaultdict(list)
            for file in self._files:
                if fault != SUFFIX or is_image(file):  # a.xml is no image a.jpg of another suffix
                    groups[KEYS[fault]("/".join(file.split("/")[-depth:]))].append(file)
        return self._groups[fault, depth]


def _common_prefix(pairs: Sequence[tuple[str, str]]) -> str:
    """Return what to take away from, or put before, most names."""
    words: Counter[str] = Counter()
    for name, there in pairs:
        name, there = _nfc(name), _nfc(there)
        if name.endswith("/" + there):
            words[f"{name[: len(name) - len(there)]!r} is too much"] += 1
        elif there.endswith("/" + name):
            words[f"{there[: len(there) - len(name)]!r} is missing"] += 1
    return words.most_common(1)[0][0] if words else ""


def _files(folder: Path) -> list[str]:
    names: list[str] = []
    for parent, _, files in os.walk(folder):
        prefix = os.path.relpath(parent, folder)
        names += [file if prefix == "." else f"{prefix}/{file}" for file in files]
        if len(names) > MAX_FILES:
            break
    return names
