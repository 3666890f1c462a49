"""Annotation files in COCO format: read, and checked in full, so that what follows may rely on them."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m2det.data.sources.image_folder import ADVICE, leaves_folder, name_fault
from m2det.data.sources.records import Category
from m2det.errors import InputError
from m2det.files.regular_file import read_file

MAX_SIDE = 65_535  # px, the most that a JPEG can have
MAX_CATEGORIES = 2**15 - 1  # labels are int16
MAX_NAME = 1000  # characters of a category's name: what a model's file takes
SURROGATES = re.compile("[\ud800-\udfff]")


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable garbage collection, which took a third of the time at COCO's size and finds nothing here."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@gc_disabled()
def read_annotations(path: Path, outside: bool = False, outlines: bool = False) -> dict[str, Any]:
    """Return the content of an annotation file, its images checked: ids, file names and sizes.

    Args:
        path: of the JSON file.
        outside: whether images' names may lead out of their folder.
        outlines: keep the objects' `segmentation`, which boxes do without and which is most of COCO's files.

    Raises:
        InputError: the file is missing, no regular file, no JSON, not in COCO format, or has no
            images or one whose name leads out of its folder.
    """
    if not path.exists():
        raise InputError(f"{path}: no such annotation file; check its name and the data root")
    try:
        content = json.loads(read_file(path), object_hook=None if outlines else _without_outline)
    except (ValueError, RecursionError) as error:  # broken syntax, bytes that are no text, or nested without end
        raise InputError(f"{path} is no valid JSON ({error}); it may be truncated: copy it again") from error
    _require(content, ("images", "annotations", "categories"), f"{path}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content[key], list):
            raise InputError(f"{path}: '{key}' must be a list")
    if not content["images"]:
        raise InputError(f"{path} has no images; give an annotation file that lists some")
    for index, image in enumerate(content["images"]):
        _require(image, ("id", "file_name", "width", "height"), f"{path}: image {_name(image, index)}")
        if not _is_integer(image["id"]):
            raise InputError(f"{path}: image id {image['id']!r} must be a whole number")
        if not all(_is_integer(image[side]) and 0 < image[side] <= MAX_SIDE for side in ("width", "height")):
            raise InputError(
                f"{path}: image {image['id']} has width {image['width']!r} and height {image['height']!r}; "
                f"both must be whole numbers from 1 to {MAX_SIDE}"
            )
        if not _is_text(image["file_name"]):
            raise InputError(f"{path}: image {image['id']} has file_name {image['file_name']!r}, no text")
        if fault := name_fault(image["file_name"]):
            raise InputError(f"{path}: image {image['id']} has file_name {image['file_name']!r}, {fault}; rename it")
        if not outside and leaves_folder(image["file_name"]):
            raise InputError(
                f"{path}: image {image['id']} has file_name {image['file_name']!r}, which leads out of the image "
                f"folder; {ADVICE}"
            )
    return content


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    # while the file is parsed: afterwards COCO's outlines would have taken 1.2 GB and half of the time
    entry.pop("segmentation", None)
    return entry


def read_categories(path: Path) -> list[Category]:
    """Return the categories of an annotation file, sorted by id. Raises InputError as read_annotations does."""
    return check_categories(read_annotations(path, outside=True), path)


def check_categories(content: dict[str, Any], path: Path) -> list[Category]:
    """Return the categories of what read_annotations gave, sorted by id. Raises InputError for the first bad one."""
    entries = content["categories"]
    if not entries:
        raise InputError(f"{path} has no categories; a detector needs at least one class")
    for index, entry in enumerate(entries):
        _require(entry, ("id", "name"), f"{path}: category {_name(entry, index)}")
        if not _is_integer(entry["id"]):
            raise InputError(f"{path}: category id {entry['id']!r} must be a whole number")
        if not (isinstance(entry["name"], int | float) or _is_text(entry["name"])):
            raise InputError(f"{path}: category {entry['id']} has name {entry['name']!r}, no text")
        if not 1 <= len(str(entry["name"])) <= MAX_NAME:
            raise InputError(f"{path}: the name of category {entry['id']} must have 1 to {MAX_NAME} characters")
    if len(entries) > MAX_CATEGORIES:
        raise InputError(f"{path} has {len(entries)} categories; {MAX_CATEGORIES} are the most")
    for key in ("id", "name"):
        seen: set[str] = set()
        for entry in entries:
            if str(entry[key]) in seen:
                raise InputError(f"{path}: category {key} {entry[key]!r} occurs twice; it must be unique")
            seen.add(str(entry[key]))
    return sorted((Category(e["id"], str(e["name"])) for e in entries), key=lambda category: category.id)


def check_annotations(content: dict[str, Any], path: Path) -> None:
    """Raise InputError for the first annotation of what read_annotations gave that is not in COCO format."""
    image_ids = {image["id"] for image in content["images"]}
    category_ids = {category.id for category in check_categories(content, path)}
    for index, entry in enumerate(content["annotations"]):
        where = f"{path}: annotation {_name(entry, index)}"
        _require(entry, ("image_id", "category_id", "bbox"), where)
        if not (_is_integer(entry["image_id"]) and entry["image_id"] in image_ids):
            raise InputError(f"{where} names image id {entry['image_id']!r}, which is not among the images")
        if not (_is_integer(entry["category_id"]) and entry["category_id"] in category_ids):
            raise InputError(
                f"{where} has category id {entry['category_id']!r}, which is not in the list of categories"
            )
        bbox = entry["bbox"]
        if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_finite, bbox))):
            raise InputError(f"{where} has bbox {bbox!r}; it must be four finite numbers, x y width height")
        if not _is_finite(area_of(entry)):
            raise InputError(f"{where} has area {area_of(entry)!r}; it must be a finite number")
        if entry.get("iscrowd", 0) not in (0, 1):
            raise InputError(f"{where} has iscrowd {entry['iscrowd']!r}; it must be 0 or 1")


def area_of(annotation: dict[str, Any]) -> Any:
    """Return an annotation's area, px^2; many exports leave it out, then width x height."""
    return annotation["area"] if "area" in annotation else annotation["bbox"][2] * annotation["bbox"][3]


def _require(entry: Any, keys: Sequence[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise InputError(f"{where} must be an object with the keys {', '.join(keys)}, as COCO has it")
    for key in keys:
        if key not in entry:
            raise InputError(f"{where} lacks the key '{key}', which COCO has")


def _name(entry: Any, index: int) -> str:
    """Return an entry's id, or its position where it has none."""
    return str(entry["id"]) if isinstance(entry, dict) and "id" in entry else f"number {index + 1}"


def _is_text(value: Any) -> bool:
    """Return whether the value is text; half of a surrogate pair, which JSON can hold, fits no file or terminal."""
    return isinstance(value, str) and (value.isascii() or not SURROGATES.search(value))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e12  # float32 has room for their products
