"""SHA-256 of files and of lists of byte strings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def digest(*parts: bytes) -> str:
    """Return the hexadecimal sha256 over the parts, each prefixed by its length."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(len(part).to_bytes(8, "big") + part)
    return sha256.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(paths: Iterable[Path], root: Path) -> str:
    """Return the hexadecimal sha256 over the files' names (relative to root) and contents, in order of names."""
    return digest(
        *(part for path in sorted(paths) for part in (str(path.relative_to(root)).encode(), path.read_bytes()))
    )
