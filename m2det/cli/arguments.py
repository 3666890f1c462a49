"""Arguments of the command line: what is wrong with them in plain text, and the numbers that they may be."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from m2det.text import printable

WHOLE = re.compile(r"\d{1,18}", re.ASCII)  # 64 bits hold it


class Parser(argparse.ArgumentParser):
    """Errors quote names without their control characters, and say so where a file's name is taken for an option."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = args or ()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        names = [word for word in self._words if _may_be_file(word)]
        advice = f"; {names[0]} begins with -: put -- or ./ before it" if names else ""
        super().error(printable(message + advice))


def _may_be_file(word: str) -> bool:
    """Options are long, but for -h."""
    named = word[1:2] != "-" and Path(word).suffix[1:].isalpha()
    return word.startswith("-") and (named or os.path.lexists(word))


def count(text: str) -> int:
    """Type of an argument that is a whole number above 0."""
    if not WHOLE.fullmatch(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def from_zero(text: str) -> int:
    """Type of an argument that is a whole number from 0."""
    if not WHOLE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def fraction(text: str) -> float:
    """Type of an argument that is a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value
