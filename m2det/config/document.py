"""`python -m m2det.config.document` writes docs/params.md from the sections."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from m2det.config.schema import Params, default, settings
from m2det.config.values import ZeroOrAtLeast
from m2det.files.whole import write_whole

PAGE = Path("docs/params.md")
HEADER = """\
# Parameters

<!-- Generated from m2det/config/sections/ by `python -m m2det.config.document`; edit those instead. -->

`params.yaml` holds every key below; a missing or unknown one is an error. The defaults are those of M2Det512-VGG16 on
COCO 2014 with one device (the recipe `coco512-1p`, but for the original's `evaluate.per_class`); a recipe names only
what differs from them, and `m2det use NAME` writes all keys of a recipe into `params.yaml`. The project comes with the
recipe `digits`.
"""
TABLE = "| key | default | values | unit | meaning |\n|---|---|---|---|---|\n"


def page() -> str:
    """Return docs/params.md: one table per section of params.yaml."""
    text, last = HEADER, None
    for key, field in settings().items():
        section = key.rpartition(".")[0]
        if section != last:
            title, about = _section(section)
            text, last = text + f"\n## {title}\n{about}\n\n{TABLE}", section
        value = json.dumps(default(field)).strip('"') or "''"
        cells = (f"`{key}`", f"`{value}`", values(field), unit(field), field.description or "")
        text += f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
    return text


def comment(field: FieldInfo) -> str:
    """Return the comment of a key in params.yaml: its description, and the range of its numbers."""
    allowed = values(field).partition(", each ")[2] or values(field)
    if " to " not in allowed:  # choices, which the description names
        return str(field.description)
    said = unit(field)
    return f"{field.description}; {allowed}{f' {said}' if said and said not in str(field.description) else ''}"


def values(field: FieldInfo) -> str:
    """Return the range or the choices of a key."""
    return _values(field.annotation, field.metadata)


def unit(field: FieldInfo) -> str:
    """Return the unit of a key's number, "" for none."""
    assert isinstance(field.json_schema_extra, dict)
    return str(field.json_schema_extra["unit"])


def _section(name: str) -> tuple[str, str]:
    if not name:
        return "Top level", "Keys outside of the sections."
    kind = Params.model_fields[name].annotation
    return f"`{name}`", str(kind.__doc__)


def _values(kind: Any, marks: Sequence[Any]) -> str:
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        return _values(inner, [mark for rule in more for mark in getattr(rule, "metadata", [rule])])
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_values(member, []) for member in get_args(kind))
    if get_origin(kind) is list:
        each = _values(get_args(kind)[0], [])
        return f"list of at most {_ends(marks)['max_length']}, each {each}"
    if get_origin(kind) is dict:
        return "mapping"
    names = {bool: "true, false", str: "text"}
    return names.get(kind) or (_range(marks) if kind in (int, float) else "{annotations: FILE, images: FOLDER}")


def _range(marks: Sequence[Any]) -> str:
    ends = _ends(marks)
    least = next((mark.func.least for mark in marks if isinstance(getattr(mark, "func", None), ZeroOrAtLeast)), None)
    low = f"0 or {_number(least)}" if least else ends.get("ge") or f"above {ends['gt']}"
    return f"{low} to {ends.get('le') or 'below ' + ends['lt']}"


def _ends(marks: Sequence[Any]) -> dict[str, str]:
    sides = ("ge", "gt", "le", "lt", "max_length")
    return {s: _number(getattr(mark, s)) for mark in marks for s in sides if getattr(mark, s, None) is not None}


def _number(value: float) -> str:
    mantissa, exponent = math.frexp(value)
    if mantissa == 0.5 and not 2**-10 < value < 2**24:
        return f"2^{exponent - 1}"
    if value >= 10**8:
        return f"10^{len(str(int(value))) - 1}"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}".replace("e-0", "e-")


if __name__ == "__main__":
    write_whole(PAGE, page())
