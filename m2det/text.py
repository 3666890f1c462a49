"""Text from files, made safe to print, to draw and to put into a page; and output that outlives its reader."""

from __future__ import annotations

import io
import logging
import re
import sys
import unicodedata
from errno import EIO, EPIPE
from typing import Any, TextIO

# Unicode categories of characters that move a cursor, end a line, turn the direction of writing, or are invisible
UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # format characters that names in Persian and Indic scripts and emoji contain
MAX_CHARACTERS = 2000  # of a sentence
ELLIPSIS = " [...] "
MARKUP = re.compile("[<>&]")


def printable(text: str) -> str:
    """Return the text with control and format characters, line ends and surrogates as escapes (\\x1b, \\n, \\u202e).

    A byte of a file name that is not UTF-8 becomes \\xff. All other characters stay, a backslash too, so that
    `printable` changes nothing in its own result. For display only: different names may become the same text.
    """
    if text.isascii() and text.isprintable():  # nearly all
        return text
    return "".join(_escape(c) if unicodedata.category(c) in UNSAFE and c not in JOINERS else c for c in text)


def page_safe(text: str) -> str:
    """Return `printable` text in which the characters of markup (<, >, &) are escapes, too."""
    return MARKUP.sub(lambda match: f"\\x{ord(match[0]):02x}", printable(text))


def shortened(text: str) -> str:
    """Return the text's beginning and end, at most 2,000 characters; a name in a file may have millions."""
    if len(text) <= MAX_CHARACTERS:
        return text
    half = (MAX_CHARACTERS - len(ELLIPSIS)) // 2
    return text[:half] + ELLIPSIS + text[-half:]


class PrintableFormatter(logging.Formatter):
    """Formats log lines as `printable` text."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def print_log(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Print the log lines of m2det from a level on to a stream, by default stdout."""
    log, handler = logging.getLogger("m2det"), logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(PrintableFormatter())
    handler.setLevel(level)
    log.handlers = [handler]
    log.setLevel(logging.INFO)


def escape_unencodable_output() -> None:
    """Make stdout print characters that its encoding lacks as escapes, as stderr does by default."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that Python could not decode (surrogateescape)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


class _IgnoreClosed(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (EIO, EPIPE):
                raise
            return len(data)


def ignore_closed_output() -> None:
    """Drop what is printed after the terminal or the pipe's reader has closed, instead of raising; flush each line."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        assert isinstance(stream, io.TextIOWrapper)
        stream.flush()
        buffer = io.BufferedWriter(_IgnoreClosed(stream.fileno(), "wb", closefd=False))
        setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=True))


def undefined_note(ap: float) -> str:
    """Return what to print behind an AP: empty, or why the scorer gave -1."""
    return " (-1: not defined, no image has an annotated box)" if ap == -1 else ""


def images_of(split: str) -> str:
    """Return what to call the images of the split val or test."""
    return {"val": "validation images", "test": "test images"}[split]
