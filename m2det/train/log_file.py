"""The lines of the loggers, on device, precision, optimizer and learning rate, in a training's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m2det.errors import explain_disk_errors


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        with explain_disk_errors(Path(self.baseFilename)):
            raise


@contextmanager
def loggers_write_to(path: Path | None) -> Iterator[None]:
    """Append what the loggers of m2det say to a log, as it is on the screen.

    Args:
        path: of the log; None for no file.

    Raises:
        InputError: the disk is full.
    """
    if path is None:
        yield
        return
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, encoding="utf-8")
    logger = logging.getLogger("m2det")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with explain_disk_errors(path):  # closing writes what a full disk has not taken
            handler.close()
