"""The parser of the command line, and the types of its arguments."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from m2det.text import printable

INTEGER = re.compile(r"\d{1,18}", re.ASCII)  # fits in 64 bits
DEVICES = ("auto", "cpu", "cuda", "npu")


class Parser(argparse.ArgumentParser):
    """A parser whose errors quote names with escapes, and advise where a file's name was taken for an option."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = args or ()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        names = [word for word in self._words if _may_be_file(word)]
        advice = f"; {names[0]} begins with -: put -- or ./ before it" if names else ""
        super().error(printable(message + advice))


def _may_be_file(word: str) -> bool:
    """Return whether a word that begins with - is likely a file: no option of ours but -h is short."""
    has_suffix = word[1:2] != "-" and Path(word).suffix[1:].isalpha()
    return word.startswith("-") and (has_suffix or os.path.lexists(word))


def positive_int(text: str) -> int:
    """Parse an integer of at least 1; for `type=` of an argument."""
    if not INTEGER.fullmatch(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def nonnegative_int(text: str) -> int:
    """Parse an integer of at least 0; for `type=` of an argument."""
    if not INTEGER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def fraction(text: str) -> float:
    """Parse a number from 0 to 1; for `type=` of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value
