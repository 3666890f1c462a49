"""The sentence for an entry of an annotation file that has no or the wrong type: file, entry, key and value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from m2det.errors import InputError

KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}
MAX_SIDE = 65_535  # px, the most that a JPEG can have
PLACE = re.compile(r" - at `\$(?:\.(\w+))?(?:\[(\d+)\])?(?:\.(\w+))?")
MISSING = re.compile(r"missing required field `(\w+)`")


def explain(error: Exception, plain: Any, path: Path) -> InputError:
    """Return the error for msgspec's, which names a place such as `$.images[3].id`.

    Args:
        error: msgspec.ValidationError.
        plain: the file's content in plain Python objects.
        path: of the file.
    """
    message = str(error)
    place, missing = PLACE.search(message), MISSING.search(message)
    table, index, key = place.groups() if place else (None, None, None)
    if table is None:
        return _explain_object(plain, tuple(KEYS), f"{path}", missing)
    if index is None:
        return InputError(f"{path}: '{table}' must be a list")
    entry = plain[table][int(index)]
    where = f"{path}: {SINGULAR[table]} {name_of(entry, int(index))}"
    if key is None:
        return _explain_object(entry, KEYS[table], where, missing)
    if key == "id":
        value = entry["id"]
        return InputError(f"{path}: {SINGULAR[table]} id {value!r} must be a whole number{_not(value)}")
    return InputError(where + explain_value(key, entry))


def explain_value(key: str, entry: dict[str, Any]) -> str:
    """Return what is wrong with an entry's value, to follow the entry's name."""
    value = entry.get(key)
    if key == "image_id":
        return f" names image id {value!r}, which is not among the images{_not(value)}"
    if key == "category_id":
        return f" has category id {value!r}, which is not in the list of categories{_not(value)}"
    if key in ("width", "height"):
        return (
            f" has width {entry.get('width')!r} and height {entry.get('height')!r}; "
            f"both must be whole numbers from 1 to {MAX_SIDE}"
        )
    expected = {
        "bbox": "; it must be four finite numbers, x y width height",
        "area": "; it must be a finite number",
        "iscrowd": "; it must be 0 or 1",
    }
    shown = list(value) if isinstance(value, tuple) else value
    return f" has {key} {shown!r}{expected.get(key, ', no text')}"


def name_of(entry: Any, index: int) -> str:
    """Return an entry's id, or its position where it has none."""
    return str(entry["id"]) if isinstance(entry, dict) and "id" in entry else f"number {index + 1}"


def _explain_object(entry: Any, keys: tuple[str, ...], where: str, missing: re.Match[str] | None) -> InputError:
    if isinstance(entry, dict) and missing:
        return InputError(f"{where} lacks the key '{missing[1]}', which COCO has")
    return InputError(f"{where} must be an object with the keys {', '.join(keys)}, as COCO has it")


def _not(value: Any) -> str:
    """Return why a value is no id."""
    if isinstance(value, str):
        return "; it is text that is no plain number"
    return "; it is a fraction" if isinstance(value, float) else ""
