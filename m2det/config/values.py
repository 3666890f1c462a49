"""Kinds of values in params.yaml, and the checks of single ones."""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from m2det.text import printable

RENDEZVOUS = re.compile(r"([\w.-]{1,253}):(\d{1,5})", re.ASCII)
MAX_PORT = (1 << 16) - 2  # torchrun takes the port after the one that is given


def plain(text: str) -> str:
    """Refuse control characters, and what DVC would replace by other values."""
    if printable(text) != text:
        raise ValueError(f"takes printable characters only, got {shown(text)}")
    if "${" in text or text == "???":
        raise ValueError(f"takes no '${{' and no '???', for which DVC writes other values; got {shown(text)}")
    return text


def path_text(text: str) -> str:
    """Refuse names longer than file systems take."""
    if len(text.encode()) > 2000 or any(len(part.encode()) > 255 for part in text.split("/")):
        raise ValueError("a path has at most 2,000 bytes, 255 of them between two slashes")
    return text


def address(text: str) -> str:
    """Refuse what is not an http address."""
    try:
        parts = urlsplit(text)
        host = parts.port != 0 and parts.scheme in ("http", "https") and parts.hostname
    except ValueError:  # brackets, or a port that is no number
        host = None
    if not host or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(f"takes an address that begins with http:// or https://, not {shown(text)}")
    return text


def rendezvous_address(text: str) -> str:
    """Refuse what is neither empty nor HOST:PORT."""
    match = RENDEZVOUS.fullmatch(text)
    if text and (not match or not 0 < int(match[2]) <= MAX_PORT):
        raise ValueError(f"takes HOST:PORT, such as node0:29500, with a port up to {MAX_PORT}, not {shown(text)}")
    return text


def file_of_address(url: str) -> str:
    """Return the name under which the file at the address is kept."""
    return urlsplit(url).path.rpartition("/")[2]


def source_of_weights(text: str) -> str:
    """Refuse an address that names no file."""
    if "://" in text and file_of_address(address(text)) in ("", ".", ".."):
        raise ValueError(f"takes the address of a file, not {shown(text)}")
    return text


def class_entries(entries: list[Any]) -> list[Any]:
    """Refuse an entry that is neither a name nor one new name for a list of names."""
    for entry in entries:
        if isinstance(entry, dict) and (len(entry) != 1 or not all(entry.values())):
            raise ValueError(f"takes names and {{new name: [names]}}, not {shown(entry)}")
    return entries


@dataclass(frozen=True)
class ZeroOrAtLeast:
    """Refuse numbers between 0 and `least`."""

    least: float

    def __call__(self, value: float) -> float:
        if 0 < value < self.least:
            raise ValueError(f"takes 0 or at least {self.least:g}, not {value:g}")
        return value


def setting(default: Any, what: str, unit: str = "") -> Any:
    """Describe one key of params.yaml.

    Args:
        default: the value that recipes leave out; a file must hold the key nevertheless.
        what: the meaning, as params.yaml's comment and docs/params.md print it.
        unit: of a number, such as "px".
    """
    return Field(description=what, json_schema_extra={"default": default, "unit": unit})


# ranges hold on any machine; stages refuse what exceeds the machine that they run on
Text = Annotated[str, Field(max_length=1000), AfterValidator(plain)]


File = Annotated[Text, AfterValidator(path_text)]


Fraction = Annotated[float, Field(ge=0, le=1)]


Images = Annotated[int, Field(ge=1, le=65_536)]


Steps = Annotated[int, Field(ge=1, le=10**9)]


class Section(BaseModel):
    # strict: YAML has types of its own, and "3" for 3 is a mistake that should not pass
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def shown(value: Any) -> str:
    """Return the value as Python writes it, shortened, on one line."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel = 80, 80, 3
