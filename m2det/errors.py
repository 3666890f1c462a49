"""InputError: the exception for wrong input, whose sentence says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EEXIST, EFBIG, EISDIR, ENOSPC, ENOTDIR, EPERM, EPIPE, EROFS
from pathlib import Path

from m2det.text import printable, shortened

# DVC trusts its cached copy unhashed while that is read-only or linked to the working copy: repeating a stage would
# restore damaged bytes. A writable copy with a new time is hashed, and dropped where it is damaged.
RECHECK_DVC_CACHE = 'find "$(dvc cache dir)" -type f -exec chmod u+w {} + -exec touch {} +'


class InputError(ValueError):
    """Wrong input; the message is a sentence that says what is wrong, where, and the remedy.

    The command line and the stages print the sentence without a traceback and exit with 1. `str` gives one line of at
    most 2,000 printable characters, whatever names and values from files the sentence quotes.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return shortened(printable(shortened(text.strip())))  # again: escapes are longer than their characters


@contextmanager
def explain_missing_cann() -> Iterator[None]:
    """Wrap the first import of torch, which fails where torch_npu is installed and CANN is not loaded.

    Raises:
        InputError: Instead of that one failure, whose own text names neither CANN nor a remedy.
    """
    try:
        yield
    except RuntimeError as error:
        if "Failed to load the backend extension: torch_npu" not in str(error):
            raise
        raise InputError(
            f"torch_npu is installed, but does not load ({error.__cause__}); load CANN: source "
            "/usr/local/Ascend/ascend-toolkit/set_env.sh; or run on the CPU: export TORCH_DEVICE_BACKEND_AUTOLOAD=0"
        ) from error


NO_ROOM = (ENOSPC, EDQUOT, EFBIG)
ADVICE = {
    **dict.fromkeys(NO_ROOM, "make room"),
    **dict.fromkeys((EACCES, EPERM, EROFS), "see to its permissions, or write elsewhere"),
    **dict.fromkeys((EISDIR, ENOTDIR, EEXIST), "move it, or write elsewhere"),
    EPIPE: "its reader has ended, so the rest is not written",
}


@contextmanager
def explain_disk_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Wrap the writing of files: turn errors of the disk (full, read-only, no permission) into InputErrors.

    Args:
        path: The file or folder to name where the system's error names none.
        needed: Size of the file in bytes, or 0 if unknown; the message compares the size with the free space.

    Raises:
        InputError: The disk takes no file here.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        reason = f"{error.strerror or error}".lower()
        if needed and error.errno in NO_ROOM:
            free = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.exists())).free
            room = f"it takes {needed:,} bytes, the disk has {free:,}; make room, then give the same command again"
            raise InputError(f"{path}: {reason}; {room}") from error
        named = error.filename2 or error.filename or path  # of a rename the user knows the second
        raise InputError(f"{named}: {reason}; {ADVICE[error.errno]}") from error
