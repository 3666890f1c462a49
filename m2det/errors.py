"""The one exception that means: what you gave us is wrong, and here is what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Wrong input, told in a sentence that says what is wrong, where, and what to do.

    The command line and the stages print the sentence without a traceback and exit with 1.
    """

    def __str__(self) -> str:
        # a data-loading process hands it on inside the text of its traceback
        return super().__str__().rpartition("InputError: ")[2].strip()


# a disk that is full, over quota, at its limit of one file's size, read-only, or not ours
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it, a full or read-only disk is an InputError that names the path, or the file the system names."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        reason = os.strerror(error.errno).lower()
        raise InputError(
            f"{error.filename or path} cannot be written ({reason}); make room, or see to its permissions"
        ) from error
