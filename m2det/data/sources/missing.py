"""Why images that annotations name are not in their folder: what the names differ in, and what would match."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from urllib.parse import unquote

MAX_FILES = 1_000_000  # names of a folder that are compared


REMEDY = "rename the files, or correct file_name or the image folder in the annotations' entry"


def explain_missing(folder: Path, missing: Sequence[str], remedy: str = REMEDY) -> str:
    """Return what the missing images' names and the folder's files differ in, with an example and the remedy.

    Args:
        folder: of the images; it may be absent.
        missing: names that are no files in the folder.
        remedy: what to do, for the end of the phrase.

    Returns:
        A phrase for the end of a sentence; empty if no file of the folder has a similar name.
    """
    present = _files(folder)
    found: dict[str, list[tuple[str, str]]] = {}
    keys = {fault: _by_key(present, key) for fault, key in KEYS.items()}
    for name in missing:
        for fault, key in KEYS.items():
            matches = keys[fault].get(key(name), ())
            if len(matches) == 1:
                found.setdefault(fault, []).append((name, matches[0]))
                break
    parts = []
    for fault, pairs in found.items():
        prefix = _common_prefix(pairs) if fault == "folders before the name" else ""
        more = f" ({prefix})" if prefix else ""
        parts.append(f"{len(pairs)} differ in {fault}{more}: {pairs[0][0]!r} is there as {pairs[0][1]!r}")
    if not parts:
        return ""
    return f"{'; '.join(parts)}; {remedy}"


def _plain(name: str) -> str:
    return os.path.normpath(name.replace("\\", "/"))


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", _plain(name))


def _folded(name: str) -> str:
    return _nfc(name).casefold()


def _base(name: str) -> str:
    return _folded(name).rpartition("/")[2]


# by what names become equal, from the least change to the most
KEYS: dict[str, Callable[[str], str]] = {
    "slashes": _plain,
    "Unicode form (composed or decomposed letters)": _nfc,
    "upper and lower case": _folded,
    "%-encoding": lambda name: _folded(unquote(name)),
    "folders before the name": _base,
    "the suffix": lambda name: _base(name).rpartition(".")[0],
}


def _by_key(names: Collection[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _common_prefix(pairs: Sequence[tuple[str, str]]) -> str:
    """Return what to take away from, or put before, most names."""
    words: Counter[str] = Counter()
    for name, there in pairs:
        name, there = _plain(name), _plain(there)
        if _folded(name).endswith("/" + _folded(there)):
            words[f"{name[: len(name) - len(there)]!r} is too much"] += 1
        elif _folded(there).endswith("/" + _folded(name)):
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
