"""The one exception that means: what you gave us is wrong, and here is what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EFBIG, EISDIR, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path

from m2det.text import printable, shortened

# DVC's cache and the working copy share a file (hardlink, symlink), or DVC takes its copy for sound because it is
# read-only: to make a damaged output anew would end in the damaged bytes again. A copy that is writable and of another
# time is hashed, and dropped where it is damaged.
CHECK_COPIES = 'find "$(dvc cache dir)" -type f -exec chmod u+w {} + -exec touch {} +'


class InputError(ValueError):
    """Wrong input, told in a sentence that says what is wrong, where, and what to do.

    The command line and the stages print the sentence without a traceback and exit with 1. It is one line of at most
    2,000 characters, whatever the names and values from files are that it quotes.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if text.startswith("Caught InputError in "):  # by torch's DataLoader, whose process hands on a traceback
            text = text.rstrip().rpartition("\n")[2].partition("InputError: ")[2]
        return shortened(printable(shortened(text.strip())))  # escapes are longer than what they stand for


@contextmanager
def cann_explained() -> Iterator[None]:
    """Around the first import of torch: where torch_npu is installed, it fails unless CANN is loaded.

    Raises InputError for that one failure, whose own text names neither CANN nor what to do.
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
    **dict.fromkeys((EISDIR, ENOTDIR), "move what is there, or write elsewhere"),
}


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Within it, a full or read-only disk is an InputError that names the path, or the file the system names.

    needed: bytes that the file takes, where that is known; the sentence compares them with the disk's room.
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
        named = error.filename2 or error.filename or path  # the second of a rename is the one that the user knows
        raise InputError(f"{named}: {reason}; {ADVICE[error.errno]}") from error
