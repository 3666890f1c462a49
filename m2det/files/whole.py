"""Write a file under a temporary name, then rename it: whoever reads sees the file before or the file after."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

from m2det.errors import InputError, writing

LONGEST_NAME = 255  # bytes, of any file on Linux


@contextmanager
def replacing(path: Path, needed: int = 0) -> Iterator[Path]:
    """The temporary name to write to; at the end it becomes `path`, and a power cut does not undo that.

    needed: bytes that the file takes; a disk with less room is told before the first of them is written. After a
    failure the temporary file is gone.
    Raises InputError for a disk that is full, read-only or closed to us.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    if len(os.fsencode(temporary.name)) > LONGEST_NAME:
        temporary = path.with_name(f".{os.getpid()}.tmp")
    with writing(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < needed:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        temporary.unlink(missing_ok=True)  # a link would be followed
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def require_utf8(path: Path) -> None:
    """For libraries that take a file's name as text. Raises InputError for a name that is none."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: its name, with its folders', has to be UTF-8; give or take another one") from error


def write_whole(path: Path, content: bytes | str) -> None:
    """Write the file's whole content, text as UTF-8. Raises InputError as `replacing` does."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, len(data)) as temporary:
        temporary.write_bytes(data)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards. Raises InputError where no disk has room for one."""
    folder = make_temporary_folder("m2det-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def make_temporary_folder(prefix: str) -> Path:
    """A new folder of a name that begins so. Raises InputError where no disk has room for one."""
    try:
        return Path(tempfile.mkdtemp(prefix=prefix))
    except FileNotFoundError as error:  # of several places, none of which could be written to
        raise InputError(
            f"{error.strerror}; make room in one of them, or set TMPDIR to a folder that has some"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
