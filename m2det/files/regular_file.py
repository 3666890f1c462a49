"""Read regular files only: a FIFO would block, a device might never end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from stat import S_ISREG

from m2det.errors import InputError

ADVICE = "put the images there, or, if you trust whoever made these files, set data.outside (--outside of data check)"


def read_file(path: str | Path, within: str = "") -> bytes:
    """The content of a regular file.

    within: the real path of a folder in which the file must lie when all links are followed; empty for anywhere.
    Raises InputError for what cannot be read, is no regular file, or lies elsewhere.
    """
    try:
        require_regular(path, os.stat(path))  # noqa: PTH116 - quicker, and done for each image
        with open(path, "rb", opener=_open_at_once) as file:
            # the name may have become another file's: what counts is what was opened
            require_regular(path, os.fstat(file.fileno()))
            if within:
                require_within(path, _real_path(file.fileno(), path), within)
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from error


def require_regular(path: str | Path, status: os.stat_result) -> None:
    """Raises InputError for what `os.stat` calls anything but a regular file."""
    if not S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file but a folder, a pipe or a device, which are not read; replace it")


def require_within(path: str | Path, real: str, folder: str) -> None:
    """Raises InputError unless `real`, which is where the path leads, lies in the folder or is it."""
    if real != folder and not real.startswith(os.path.join(folder, "")):  # noqa: PTH118 - quicker
        raise InputError(f"{path} leads to {real}, out of the image folder {folder}; {ADVICE}")


def _unreadable(path: str | Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO that has come since would wait for someone to write


def _real_path(descriptor: int, path: str | Path) -> str:
    """Of an open file: by Linux's own account; elsewhere by its name, which may have changed since it was opened."""
    if sys.platform == "linux":
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - quicker
    return os.path.realpath(path)
