"""Pascal VOC as the original trains on it: trainval of 2007 and 2012, tested on 2007's test; written as COCO JSON.

Objects marked `difficult` become crowds: training leaves them out and evaluation counts nothing on them, as VOC's does.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from m2det.data.sources.image_folder import ImageFolder
from m2det.errors import InputError

log = logging.getLogger(__name__)

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
NAME = re.compile(r"\d[\d_]{0,14}", re.ASCII)  # so that a name is no path, and its annotations' ids fit into 64 bits
INTEGER = re.compile(r"\d{1,9}", re.ASCII)  # int and float also take 1_0, inf and other scripts' digits
NUMBER = re.compile(r"[+-]?\d{1,9}(\.\d*)?(e-\d+)?", re.ASCII | re.IGNORECASE)
SETS = {"train": [("VOC2007", "trainval"), ("VOC2012", "trainval")], "val": [("VOC2007", "test")]}


def convert_voc(root: Path, target: Path, outside: bool = False) -> dict[str, list[tuple[str, str]]]:
    """Write target/annotations/{YEAR}_{SET}.json from VOC's XML; pixels count from 0; images are not copied.

    A missing year is left out with a warning.

    Args:
        root: the folder VOCdevkit.
        target: the folder to write to.
        outside: whether annotations and lists of images may lie out of their folders, by links.

    Returns:
        Each split's pairs of (annotation file relative to target, image folder relative to root).

    Raises:
        InputError: a split has no year, or a file is no VOC annotation.
    """
    for fault in missing_splits(root):
        raise InputError(fault)
    splits: dict[str, list[tuple[str, str]]] = {}
    (target / "annotations").mkdir(parents=True, exist_ok=True)
    for split, sets in SETS.items():
        splits[split] = []
        for year, name in sets:
            listing = _listing(root, year, name)
            if not listing.exists():
                log.warning("%s is missing: %s is made without it", listing, split)
                continue
            content = _read(root / year, _names(listing, outside), outside)
            (target / "annotations" / f"{year}_{name}.json").write_text(json.dumps(content))
            splits[split].append((f"annotations/{year}_{name}.json", f"{year}/JPEGImages"))
    return splits


def missing_splits(root: Path) -> Iterator[str]:
    """Yield a sentence for each split that the folder VOCdevkit has no year of."""
    for sets in SETS.values():
        if not any(_listing(root, year, name).exists() for year, name in sets):
            listings = " or ".join(str(_listing(Path(), year, name)) for year, name in sets)
            yield f"{root} has no {listings}; data.root must be VOCdevkit, where VOC2007 and VOC2012 are"


def listed_images(root: Path, outside: bool = False) -> dict[str, set[str]]:
    """Return the names of all splits' images, by their folder relative to VOCdevkit."""
    named: dict[str, set[str]] = {}
    for year, name in (pair for sets in SETS.values() for pair in sets):
        if (listing := _listing(root, year, name)).exists():
            images = named.setdefault(f"{year}/JPEGImages", set())
            images.update(f"{image}.jpg" for image in _names(listing, outside))
    return named


def _listing(root: Path, year: str, name: str) -> Path:
    return root / year / "ImageSets" / "Main" / f"{name}.txt"


def _names(listing: Path, outside: bool) -> list[str]:
    names = ImageFolder(listing.parent, outside).read(listing.name).decode(errors="backslashreplace").split()
    for name in names:
        if not NAME.fullmatch(name):
            raise InputError(f"{listing} lists {name!r}, no name of a VOC image (digits and _); unpack VOC again")
    return names


def _read(folder: Path, names: list[str], outside: bool) -> dict[str, Any]:
    """Return one year's annotations of the named images as a COCO dict. An image's id is its name's digits."""
    images, annotations = [], []
    files = ImageFolder(folder / "Annotations", outside)
    for name in names:
        path = files.path / f"{name}.xml"
        image_id, text = int(name.replace("_", "")), files.read(path.name)
        try:
            tree = ElementTree.fromstring(text, ElementTree.XMLParser(target=_WithoutDocumentType()))
            width, height = (int(_text(tree, f"size/{side}", INTEGER)) for side in ("width", "height"))
            objects = [_object(node) for node in tree.findall("object")]
        except (ValueError, LookupError, ElementTree.ParseError) as error:  # LookupError: of an unknown encoding
            raise InputError(f"{path} is no VOC annotation of an image ({error}); unpack VOC again") from error
        images.append({"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height})
        annotations += [{"id": image_id * 1000 + i, "image_id": image_id, **each} for i, each in enumerate(objects)]
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


class _WithoutDocumentType(ElementTree.TreeBuilder):
    """Refuse a document type, in any encoding: VOC has none, and hostile XML needs one for its entities."""

    def doctype(self, *_: str | None) -> None:
        raise ValueError("it declares a document type")


def _object(node: ElementTree.Element) -> dict[str, Any]:
    # the first and the last pixel inside, counted from 1
    x1, y1, x2, y2 = (float(_text(node, f"bndbox/{side}", NUMBER)) for side in ("xmin", "ymin", "xmax", "ymax"))
    w, h = x2 - x1 + 1, y2 - y1 + 1
    name = _text(node, "name")
    if name not in CLASSES:
        raise ValueError(f"VOC has no class {name!r}")
    crowd = int((node.findtext("difficult") or "0").strip() == "1")
    return {"category_id": CLASSES.index(name) + 1, "bbox": [x1 - 1, y1 - 1, w, h], "area": w * h, "iscrowd": crowd}


def _text(node: ElementTree.Element, path: str, pattern: re.Pattern[str] | None = None) -> str:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"it lacks {path}")
    if pattern and not pattern.fullmatch(text.strip()):
        raise ValueError(f"its {path} is {text.strip()!r}, no number of pixels")
    return text.strip()
