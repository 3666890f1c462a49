"""Annotation files in COCO format: decoded by type, and checked in full, so that what follows may rely on them."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from m2det.data.sources.coco_checks import check_annotations, check_categories, check_images, drop_roots_of_same_name
from m2det.data.sources.coco_faults import explain
from m2det.data.sources.coco_types import Annotation, Content, Image, ImageInfo
from m2det.data.sources.json_bytes import explain_encoding, read_json_bytes
from m2det.data.sources.records import Category, Note
from m2det.errors import InputError


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A checked annotation file.

    images: their ids are unique. annotations: of these images and categories; area and iscrowd have values.
    categories: sorted by id. notes: what reading has decided.
    """

    path: Path
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
    notes: tuple[Note, ...]


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
def read_coco(path: Path, outside: bool = False, unlabelled: bool = False) -> CocoFile:
    """Read an annotation file and check it in full; images are not opened.

    `area` and `iscrowd`, which many exports leave out or null, default to width x height and 0; so does an area of 0.

    Args:
        path: of the JSON file.
        outside: whether images' names may lead out of their folder.
        unlabelled: whether the list of annotations may be absent.

    Raises:
        InputError: the file is missing, no JSON, not in COCO format, has no images or one whose name leads out of its
            folder, or an annotation names what the file does not have; with the file, the entry's id and its value.
    """
    content, notes = _decode(read_json_bytes(path), path, ImageInfo if unlabelled else Content)
    check_images(content.images, path, outside)
    notes += drop_roots_of_same_name(content, path)
    categories = check_categories(content.categories, path)
    notes += check_annotations(content, path)
    return CocoFile(path, content.images, content.annotations, categories, tuple(notes))


def read_categories(path: Path) -> list[Category]:
    """Return the categories of an annotation file, sorted by id. Raises InputError as read_coco does."""
    return list(read_coco(path, outside=True).categories)


def _decode(data: bytes, path: Path, kind: type[Content]) -> tuple[Content, list[Note]]:
    """Return the typed content; numbers that are written as text or as 1.0 are taken where they are exact."""
    try:
        try:
            return msgspec.json.decode(data, type=kind), []
        except msgspec.ValidationError as error:
            first = str(error).rpartition("$.")[2].rstrip("`")
            content = msgspec.json.decode(data, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise explain(error, _plain(data, path), path) from None
    except UnicodeDecodeError:
        raise explain_encoding(data, path) from None
    except (msgspec.DecodeError, RecursionError):
        return _decode_pythons(data, path, kind)
    text = f"{path}: numbers are written as text or ids as 1.0, first {first}; they are taken as the numbers they are"
    return content, [Note("numbers-as-text", 1, text)]


def _decode_pythons(data: bytes, path: Path, kind: type[Content]) -> tuple[Content, list[Note]]:
    """Decode what Python's json writes beyond JSON, NaN and halves of surrogate pairs: harmless in keys of no use."""
    plain = _plain(data, path)
    try:
        return msgspec.convert(plain, kind, strict=False), []
    except msgspec.ValidationError as error:
        raise explain(error, plain, path) from None


def _plain(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data, object_hook=_without_outline)
    except UnicodeDecodeError:
        raise explain_encoding(data, path) from None
    except (ValueError, RecursionError) as error:  # broken syntax, or nested without end
        raise InputError(f"{path} is no valid JSON ({error}); it may be truncated: copy it again") from error


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    # while the file is parsed: afterwards COCO's outlines would have taken 1.2 GB and half of the time
    entry.pop("segmentation", None)
    return entry
