"""Files of torch.save that end in the sha256 of what was written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from m2det.errors import InputError
from m2det.files.whole import replacing

MARK = b"\nm2det, sha256:"  # behind torch's zip archive, whose readers look for its end from here
TAIL = len(MARK) + hashlib.sha256().digest_size
BESIDE_TENSORS = 1 << 20  # bytes, more than enough for names, shapes, rows and the archive's own


class Damaged(InputError):
    """A file that is not what was written; the sentence names it and says how one can tell."""


class _Sink:
    """What torch.save writes to. It keeps the disk's own error, of which torch would make a failed assertion."""

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
    """torch.save, whole or not at all. Raises InputError for a full disk, with the bytes that the file takes."""
    _save(path, content, b"")


def save_checked(path: Path, content: Any) -> None:
    """save_plain with a checksum, which load_checked compares; torch.load reads the file all the same."""
    _save(path, content, MARK)


def _save(path: Path, content: Any, mark: bytes) -> None:
    with replacing(path, _bytes(content) + BESIDE_TENSORS) as temporary, temporary.open("wb") as file:
        sink = _Sink(file)
        torch.save(content, cast(BinaryIO, sink))
        if sink.error:
            raise sink.error
        if mark:
            file.write(mark + sink.sha256.digest())
        file.flush()


def _bytes(content: Any) -> int:
    """Of all tensors in dicts, lists and tuples."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, dict):
        content = content.values()
    elif not isinstance(content, list | tuple):
        return 0
    return sum(map(_bytes, content))


def verify(path: Path) -> None:
    """Raises Damaged for a file of save_checked that is not as it was written."""
    try:
        with path.open("rb") as file:
            _verify(path, file)
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from error


def load_checked(path: Path) -> Any:
    """What save_checked has written, on the CPU: tensors and plain types. Raises Damaged for anything else."""
    try:
        with path.open("rb") as file:
            _verify(path, file)
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from error
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise Damaged(f"{path} has the checksum of its content, but holds no plain tensors") from error


def _verify(path: Path, file: BinaryIO) -> None:
    """Leaves the file at its start."""
    rest = os.fstat(file.fileno()).st_size - TAIL
    file.seek(max(rest, 0))
    tail = file.read()
    if len(tail) != TAIL or not tail.startswith(MARK):
        raise Damaged(f"{path} does not end in a checksum: it is cut short, or an earlier version of m2det wrote it")
    file.seek(0)
    sha256 = hashlib.sha256()
    while rest:
        data = file.read(min(rest, 1 << 20))
        if not data:
            break
        sha256.update(data)
        rest -= len(data)
    if sha256.digest() != tail[len(MARK) :]:
        raise Damaged(f"{path} is damaged: its sha256 is another than when it was written")
    file.seek(0)
