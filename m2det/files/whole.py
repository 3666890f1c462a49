"""Write files atomically: under a temporary name, then renamed, so that a reader sees the old file or the new one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

from m2det.errors import InputError, explain_disk_errors

MAX_NAME_BYTES = 255  # of a file on Linux


@contextmanager
def replacing(path: Path, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename the file to `path` at the end, durably (fsync).

    A failure removes the temporary file.

    Args:
        path: The file to write or replace; missing folders are made.
        needed: Size of the file in bytes, or 0 if unknown; a disk with less room is refused before writing.

    Raises:
        InputError: The disk is full or read-only, or permission is missing.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    if len(os.fsencode(temporary.name)) > MAX_NAME_BYTES:
        temporary = path.with_name(f".{os.getpid()}.tmp")
    with explain_disk_errors(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < needed:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        temporary.unlink(missing_ok=True)  # writing would follow a link
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def require_utf8(path: Path) -> None:
    """Raise InputError for a path that is not UTF-8, for libraries that take paths as text only."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: its name, with its folders', has to be UTF-8; give or take another one") from error


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file atomically, text as UTF-8. Raises InputError as `replacing` does."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, len(data)) as temporary:
        temporary.write_bytes(data)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder, removed at the end. Raises InputError where no disk has room for one."""
    folder = make_temporary_folder("m2det-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def make_temporary_folder(prefix: str) -> Path:
    """Make a new folder whose name starts with the prefix. Raises InputError where no disk has room for one."""
    try:
        return Path(tempfile.mkdtemp(prefix=prefix))
    except FileNotFoundError as error:  # Python tried several places, none of which takes a file
        raise InputError(
            f"{error.strerror}; make room in one of them, or set TMPDIR to a folder that has some"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
