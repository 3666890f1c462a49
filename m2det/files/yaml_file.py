"""Read YAML files of plain keys and values; anchors, aliases and tags, which make small files costly, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from m2det.errors import InputError

MAX_BYTES = 1_000_000
MAX_EVENTS = 10_000  # keys, values, starts and ends of mappings and lists; a params.yaml has some 250
MAX_DEPTH = 20  # of nested mappings and lists


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the file's keys and values, not validated.

    Raises:
        InputError: The file is missing, too large, no valid YAML, no mapping, or more than plain keys and values.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run this in the project's folder, where params.yaml lies")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(f"{path} has {size:,} bytes, {MAX_BYTES:,} is the most: settings take a few thousand")
    try:
        text = path.read_text(encoding="utf-8")
        _check_plain(path, text)
        raw = YAML(typ="safe").load(text)
    # ValueError: bytes that are no UTF-8, a 13th month, an integer of thousands of digits
    except (YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not valid YAML: {_reason(error)}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} must hold keys and values, like the params.yaml the project came with")
    return raw


def _check_plain(path: Path, text: str) -> None:
    nodes: list[int] = []  # keys and values so far of each open mapping; -1 for each open list
    for count, event in enumerate(YAML(typ="safe").parse(text)):
        name, line = type(event).__name__, event.start_mark.line + 1
        if count > MAX_EVENTS:
            raise InputError(f"{path}, line {line}: more than {MAX_EVENTS:,} values; settings take a few hundred")
        starts = name in ("MappingStartEvent", "SequenceStartEvent")
        if (starts or name == "ScalarEvent") and nodes and nodes[-1] >= 0:
            if starts and nodes[-1] % 2 == 0:
                raise InputError(f"{path}, line {line}: a key is a list or a mapping, but keys should be strings")
            nodes[-1] += 1
        if starts:
            nodes.append(0 if name == "MappingStartEvent" else -1)
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            nodes.pop()
        if len(nodes) > MAX_DEPTH:
            raise InputError(f"{path}, line {line}: values are nested more than {MAX_DEPTH} deep")
        if name == "AliasEvent" or getattr(event, "anchor", None):
            raise InputError(f"{path}, line {line}: anchors (&) and aliases (*) are not read; write the value out")
        if getattr(event, "tag", None):
            raise InputError(f"{path}, line {line}: tags (!) are not read; write the value without")


def _reason(error: Exception) -> str:
    reason = str(error)
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        problem = ", ".join(filter(None, (error.context, error.problem)))
        reason = f"line {error.problem_mark.line + 1}: {problem}"
    return "".join(c if c.isprintable() else " " for c in reason[:300])  # the reason may quote the file
