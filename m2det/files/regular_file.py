"""Read regular files only: opening a FIFO would block, and reading a device might never end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from stat import S_ISREG

from m2det.errors import InputError

ADVICE = "put the images there, or, if you trust whoever made these files, set data.outside (--outside of data check)"


def read_file(path: str | Path, within: str = "") -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        within: Real path of a folder in which the file must lie after all links are followed; empty for no limit.

    Raises:
        InputError: The file cannot be read, is not a regular file, or lies elsewhere.
    """
    try:
        require_regular(path, os.stat(path))  # noqa: PTH116 - quicker, and done for each image
        with open(path, "rb", opener=_open_nonblocking) as file:
            # checked again, since the name may lead to another file by now
            require_regular(path, os.fstat(file.fileno()))
            if within:
                require_within(path, _real_path(file.fileno(), path), within)
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from error


def require_regular(path: str | Path, status: os.stat_result) -> None:
    """Raise InputError unless `status`, from os.stat, is a regular file's."""
    if not S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file but a folder, a pipe or a device, which are not read; replace it")


def require_within(path: str | Path, real: str, folder: str) -> None:
    """Raises InputError unless `real`, which is where the path leads, lies in the folder or is it."""
    if real != folder and not real.startswith(os.path.join(folder, "")):  # noqa: PTH118 - quicker
        raise InputError(f"{path} leads to {real}, out of the image folder {folder}; {ADVICE}")


def _unreadable(path: str | Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}")


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a FIFO would wait for a writer


def _real_path(descriptor: int, path: str | Path) -> str:
    """Return an open file's real path: from the kernel on Linux, elsewhere by name, which may have changed since."""
    if sys.platform == "linux":
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - quicker
    return os.path.realpath(path)
