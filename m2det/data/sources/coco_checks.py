"""What types do not say about an annotation file: unique ids, names that files can have, what boxes refer to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m2det.data.sources.coco_faults import MAX_SIDE, explain_value
from m2det.data.sources.coco_types import Annotation, Content, Image, NamedCategory
from m2det.data.sources.image_folder import ADVICE, leaves_folder, name_fault
from m2det.data.sources.records import Category, Note
from m2det.errors import InputError

MAX_CATEGORIES = 2**15 - 1  # labels are int16
MAX_NAME = 1000  # characters of a category's name: what a model's file takes
MAX_NUMBER = 1e12  # float32 has room for the products
SURROGATES = re.compile("[\ud800-\udfff]")


def check_images(images: Sequence[Image], path: Path, outside: bool) -> None:
    """Raise InputError for the first image whose id, size or name cannot be."""
    if not images:
        raise InputError(f"{path} has no images; give an annotation file that lists some")
    seen: set[int] = set()
    for image in images:
        if image.id in seen:
            raise InputError(f"{path}: image id {image.id} occurs twice in this file; it must be unique")
        seen.add(image.id)
        if not _is_int64(image.id):
            raise InputError(f"{path}: image id {image.id} must be a whole number of 64 bits")
        if not (0 < image.width <= MAX_SIDE and 0 < image.height <= MAX_SIDE):
            raise InputError(f"{path}: image {image.id}" + explain_value("width", _entry(image)))
        name = image.file_name
        where = f"{path}: image {image.id} has file_name {name!r}"
        if not _is_text(name):
            raise InputError(f"{where}, no text")
        if fault := name_fault(name):
            raise InputError(f"{where}, {fault}; rename it")
        if not outside and leaves_folder(name):
            raise InputError(f"{where}, which leads out of the image folder; {ADVICE}")


def drop_roots_of_same_name(content: Content, path: Path) -> list[Note]:
    """Leave out categories without a box that only group one of the same name, and return a note on each.

    Roboflow writes one for a project that is called as its class.
    """
    used = {annotation.category_id for annotation in content.annotations}
    numbers = Counter(str(category.name) for category in content.categories)
    notes = []
    for root in list(content.categories):
        others = [category for category in content.categories if category is not root]
        groups = any(category.supercategory == root.name for category in others)
        if numbers[str(root.name)] > 1 and root.id not in used and groups:
            content.categories = others
            text = f"{path}: category {root.id} has no box: it is only the supercategory of one that is also called "
            notes.append(Note("root-category", 1, f"{text}{root.name!r}, and is left out"))
    return notes


def check_categories(entries: Sequence[NamedCategory], path: Path) -> list[Category]:
    """Return the categories, sorted by id. Raises InputError for the first bad one."""
    if not entries:
        raise InputError(f"{path} has no categories; a detector needs at least one class")
    for entry in entries:
        if not _is_int64(entry.id):
            raise InputError(f"{path}: category id {entry.id} must be a whole number of 64 bits")
        if not _is_text(str(entry.name)):
            raise InputError(f"{path}: category {entry.id} has name {entry.name!r}, no text")
        if not 1 <= len(str(entry.name)) <= MAX_NAME:
            raise InputError(f"{path}: the name of category {entry.id} must have 1 to {MAX_NAME} characters")
    if len(entries) > MAX_CATEGORIES:
        raise InputError(f"{path} has {len(entries)} categories; {MAX_CATEGORIES} are the most")
    for key in ("id", "name"):
        seen: set[str] = set()
        for value in (getattr(entry, key) for entry in entries):
            if str(value) in seen:
                raise InputError(f"{path}: category {key} {value!r} occurs twice; it must be unique")
            seen.add(str(value))
    categories = (Category(entry.id, str(entry.name), str(entry.supercategory or "")) for entry in entries)
    return sorted(categories, key=lambda category: category.id)


def check_annotations(content: Content, path: Path) -> list[Note]:
    """Fill in what annotations leave out, and return what that was. Raises InputError for the first bad one."""
    annotations = content.annotations
    image_ids = {image.id for image in content.images}
    category_ids = {category.id for category in content.categories}

    def require(key: str, good: Callable[[Annotation], bool]) -> None:
        for index, annotation in enumerate(annotations):
            if not good(annotation):
                name = f"number {index + 1}" if annotation.id is None else annotation.id
                raise InputError(f"{path}: annotation {name}" + explain_value(key, _entry(annotation)))

    require("image_id", lambda a: a.image_id in image_ids)
    require("category_id", lambda a: a.category_id in category_ids)
    if not _finite([a.bbox for a in annotations]):
        require("bbox", lambda a: _finite([a.bbox]))
    replaced = 0
    for annotation in annotations:
        area = annotation.area
        if area is None or area <= 0:
            replaced += area is not None
            annotation.area = annotation.bbox[2] * annotation.bbox[3]
        if annotation.iscrowd is None:
            annotation.iscrowd = 0
    if not _finite([a.area for a in annotations]):
        require("area", lambda a: _finite([a.area]))
    require("iscrowd", lambda a: a.iscrowd in (0, 1))
    if not replaced:
        return []
    text = f"{path}: {replaced} of {len(annotations)} annotations have an area of 0 or less; width x height is taken"
    return [Note("area-from-box", replaced, text)]


def _finite(numbers: Sequence[Any]) -> bool:
    try:
        return bool((np.abs(np.array(numbers, np.float64)) < MAX_NUMBER).all())
    except OverflowError:  # an integer of hundreds of digits
        return False


def _is_int64(value: int) -> bool:
    return -(2**63) <= value < 2**63  # as the cache has ids


def _entry(item: Any) -> dict[str, Any]:
    return {key: getattr(item, key) for key in item.__struct_fields__}


def _is_text(value: str) -> bool:
    """Return whether the value is text; half of a surrogate pair, which JSON can hold, fits no file or terminal."""
    return value.isascii() or not SURROGATES.search(value)
