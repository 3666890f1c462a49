"""Files of torch.save that end in a sha256 of their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from m2det.errors import InputError
from m2det.files.whole import replacing

MARK = b"\nm2det, sha256:"  # after the zip archive of torch.save, whose readers ignore what follows it
TAIL_BYTES = len(MARK) + hashlib.sha256().digest_size
OVERHEAD = 1 << 20  # bytes, ample for names, shapes, rows and the archive's own


class DamagedFileError(InputError):
    """A file is not what was written; the message names the file and the evidence."""


class _HashingWriter:
    """A file object for torch.save that hashes, and keeps the disk's error, which torch hides in an assertion."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            self.sha256.update(data)
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Called by torch.save; closing the file flushes it."""


def save_plain(path: Path, content: Any) -> None:
    """Write content by torch.save, atomically. Raises InputError for a full disk, with the size of the file."""
    _save(path, content, b"")


def save_checked(path: Path, content: Any) -> None:
    """Write content as `save_plain` does, with a checksum at the end, which torch.load ignores."""
    _save(path, content, MARK)


def _save(path: Path, content: Any, mark: bytes) -> None:
    with replacing(path, _tensor_bytes(content) + OVERHEAD) as temporary, temporary.open("wb") as file:
        writer = _HashingWriter(file)
        torch.save(content, cast(BinaryIO, writer))
        if writer.error:
            raise writer.error
        if mark:
            file.write(mark + writer.sha256.digest())
        file.flush()


def _tensor_bytes(content: Any) -> int:
    """Return the size of all tensors in nested dicts, lists and tuples."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, dict):
        content = content.values()
    elif not isinstance(content, list | tuple):
        return 0
    return sum(map(_tensor_bytes, content))


def verify(path: Path) -> None:
    """Raise DamagedFileError unless the file is what `save_checked` wrote."""
    with _verified(path):
        pass


def load_checked(path: Path) -> Any:
    """Return what `save_checked` wrote: CPU tensors and plain types. Raises DamagedFileError for any other file."""
    try:
        with _verified(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise DamagedFileError(f"{path} has the checksum of its content, but holds no plain tensors") from error


@contextmanager
def _verified(path: Path) -> Iterator[BinaryIO]:
    """Yield the open file, at its start, after its checksum was compared. Raises DamagedFileError."""
    try:
        with path.open("rb") as file:
            remaining = os.fstat(file.fileno()).st_size - TAIL_BYTES
            file.seek(max(remaining, 0))
            tail = file.read()
            if len(tail) != TAIL_BYTES or not tail.startswith(MARK):
                raise DamagedFileError(
                    f"{path} does not end in a checksum: it is cut short, or an earlier version of m2det wrote it"
                )
            file.seek(0)
            sha256 = hashlib.sha256()
            while data := file.read(min(remaining, 1 << 20)):
                sha256.update(data)
                remaining -= len(data)
            if sha256.digest() != tail[len(MARK) :]:
                raise DamagedFileError(f"{path} is damaged: its sha256 is another than when it was written")
            file.seek(0)
            yield file
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from error
