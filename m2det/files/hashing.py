"""SHA-256 of files and of lists of byte strings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def digest(*parts: bytes) -> str:
    """sha256 over length-prefixed parts, hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def file_sha256(path: Path) -> str:
    """Of the file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(paths: Iterable[Path], root: Path) -> str:
    """sha256 over names (relative to root) and contents, in name order."""
    return digest(
        *(part for path in sorted(paths) for part in (str(path.relative_to(root)).encode(), path.read_bytes()))
    )
