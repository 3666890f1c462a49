"""Text from files, made safe to print, draw or put into a page."""

from __future__ import annotations

import io
import logging
import re
import sys
import unicodedata
from errno import EIO, EPIPE
from io import TextIOWrapper
from typing import Any

# what moves a cursor, ends a line, turns the direction of writing, shows nothing, or is no character
UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # of Persian and Indic scripts and of emoji: format characters that names do have
LONGEST = 2000  # characters of a sentence
LEFT_OUT = " [...] "
MARKUP = re.compile("[<>&]")


def printable(text: str) -> str:
    """The text with visible escapes (\\x1b, \\n, \\u202e) for control and format characters, line ends and surrogates.

    A byte of a file name that is no UTF-8 is shown as \\xff. Everything else stays, a backslash too, so that printing
    twice is printing once; names that must be told apart by a machine are kept as they are.
    """
    if text.isascii() and text.isprintable():  # nearly all
        return text
    return "".join(_escape(c) if unicodedata.category(c) in UNSAFE and c not in JOINERS else c for c in text)


def page_safe(text: str) -> str:
    """`printable` for what pages are made of: no character that begins or ends markup, either."""
    return MARKUP.sub(lambda found: f"\\x{ord(found[0]):02x}", printable(text))


def shortened(text: str) -> str:
    """The text's beginning and end, at most 2,000 characters: what a sentence quotes from files may have millions."""
    if len(text) <= LONGEST:
        return text
    half = (LONGEST - len(LEFT_OUT)) // 2
    return text[:half] + LEFT_OUT + text[-half:]


class PrintableFormatter(logging.Formatter):
    """A log line as `printable`."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def any_text_prints() -> None:
    """Whatever stdout's encoding lacks is printed as an escape from now on, as stderr does by itself."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte of a name that is not in the system's encoding
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


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
