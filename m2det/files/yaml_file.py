"""YAML files of plain keys and values: anchors, tags and the like, by which few lines do much, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from m2det.errors import InputError

MOST_BYTES = 1_000_000
MOST_EVENTS = 10_000  # keys, values, and beginnings and ends of mappings and lists; a params.yaml has some 250
MOST_DEEP = 20  # mappings and lists inside one another


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's keys and values, unchecked.

    Raises InputError for a file that is missing or too large, is no YAML, no mapping, or more than plain values.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run this in the project's folder, where params.yaml lies")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"{path} has {size:,} bytes, {MOST_BYTES:,} is the most: settings take a few thousand")
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_more_than_values(path, text)
        raw = YAML(typ="safe").load(text)
    # ValueError: bytes that are no UTF-8, a 13th month, an integer of thousands of digits
    except (YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not valid YAML: {_reason(error)}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} must hold keys and values, like the params.yaml the project came with")
    return raw


def _refuse_more_than_values(path: Path, text: str) -> None:
    nodes: list[int] = []  # of each mapping that is open, how many keys and values it has; of each list, -1
    for count, event in enumerate(YAML(typ="safe").parse(text)):
        name, line = type(event).__name__, event.start_mark.line + 1
        if count > MOST_EVENTS:
            raise InputError(f"{path}, line {line}: more than {MOST_EVENTS:,} values; settings take a few hundred")
        begins = name in ("MappingStartEvent", "SequenceStartEvent")
        if (begins or name == "ScalarEvent") and nodes and nodes[-1] >= 0:
            if begins and nodes[-1] % 2 == 0:
                raise InputError(f"{path}, line {line}: a key is a list or a mapping, but keys should be strings")
            nodes[-1] += 1
        if begins:
            nodes.append(0 if name == "MappingStartEvent" else -1)
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            nodes.pop()
        if len(nodes) > MOST_DEEP:
            raise InputError(f"{path}, line {line}: values lie more than {MOST_DEEP} deep in one another")
        if name == "AliasEvent" or getattr(event, "anchor", None):
            raise InputError(f"{path}, line {line}: anchors (&) and aliases (*) are not read; write the value out")
        if getattr(event, "tag", None):
            raise InputError(f"{path}, line {line}: tags (!) are not read; write the value without")


def _reason(error: Exception) -> str:
    reason = str(error)
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        what = ", ".join(filter(None, (error.context, error.problem)))
        reason = f"line {error.problem_mark.line + 1}: {what}"
    return "".join(c if c.isprintable() else " " for c in reason[:300])  # which may repeat the file's text
