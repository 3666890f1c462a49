"""Output that outlives its reader: a terminal that was closed, a pipe whose other end is gone."""

from __future__ import annotations

import io
import sys
from errno import EIO, EPIPE
from typing import Any


class _Unread(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (EIO, EPIPE):
                raise
            return len(data)


def outlive_reader() -> None:
    """What is printed after the terminal was closed, or the reader of a pipe has ended, is lost from now on, and
    nothing else: the work goes on, or ends as it would. Lines are written as they end, into a pipe, too."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        assert isinstance(stream, io.TextIOWrapper)
        stream.flush()
        buffer = io.BufferedWriter(_Unread(stream.fileno(), "wb", closefd=False))
        setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=True))
