"""Annotations in COCO format: read, checked once at the door, and their boxes cleaned for training."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2det.data.sources.image_folder import ImageFolder, leaves_folder, name_fault
from m2det.errors import InputError
from m2det.files.regular_file import ADVICE, read_file

NOT_POSITIVE = "area not positive"
OUTSIDE = "outside the image"
TOO_THIN = "1 px or less in width or height"
LONGEST_SIDE = 65_535  # px, the most that a JPEG can have
MOST_CATEGORIES = 2**15 - 1  # labels are int16
LONGEST_NAME = 1000  # of a category, in characters: what a model's file takes
SURROGATES = re.compile("[\ud800-\udfff]")
SLACK = 0.01  # COCO rounds to hundredths of a pixel: what exceeds the image by less was not clipped


@dataclass(frozen=True)
class Category:
    id: int
    name: str


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its cleaned boxes.

    boxes float32 [N,4] xyxy pixels; labels int16 [N], 1-based positions among the categories sorted by id;
    iscrowd bool [N] (regions that training ignores); area float32 [N], of the annotations, px^2.
    """

    image_id: int
    file_name: str
    folder: ImageFolder
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int16]
    iscrowd: NDArray[np.bool_]
    area: NDArray[np.float32]

    @property
    def path(self) -> Path:
        return self.folder.path / self.file_name

    def read(self) -> bytes:
        """The image file. Raises InputError for what cannot be read or, unless that is allowed, lies elsewhere."""
        return self.folder.read(self.file_name)


@dataclass(frozen=True, eq=False)
class Split:
    """Records sorted by image id; categories sorted by id; what cleaning did; what scoring needs.

    `dropped` counts boxes left out, by reason; `clipped` counts boxes kept that reached over an edge.
    `ground_truth` is a COCO dict of the boxes as annotated: cleaning is for training only.
    """

    records: list[ImageRecord]
    categories: list[Category]
    dropped: dict[str, int]
    clipped: int
    ground_truth: dict[str, list[dict[str, Any]]]


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Nothing that is read here is garbage: to look for it again and again took a third of the time at COCO's size."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_without_garbage_collection()
def read_split(sources: Sequence[tuple[Path, Path]], outside: bool = False) -> Split:
    """Read pairs of (annotation file, image folder) as one split. Images are not opened.

    outside: whether images may lie out of their folder.
    `area` and `iscrowd`, which many exports leave out, default to w*h and 0.
    Raises InputError naming the file and the id of what is wrong, or that files disagree on categories.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: list[Category] = []
    folders: dict[int, ImageFolder] = {}
    for path, folder in sources:
        content, images_in = read_annotations(path), ImageFolder(folder, outside)
        found = _categories(content["categories"], path)
        if categories and found != categories:
            raise InputError(
                f"{path} has other categories (ids and names) than {sources[0][0]}; one split needs one list"
            )
        categories = found
        for image in content["images"]:
            if image["id"] in folders:
                raise InputError(f"{path}: image id {image['id']} occurs twice in this split; it must be unique")
            folders[image["id"]] = images_in
        if not outside:
            check_names(content, path)
        check_annotations(content, path)
        images += content["images"]
        annotations += content["annotations"]

    images.sort(key=lambda image: image["id"])
    position = {image["id"]: index for index, image in enumerate(images)}
    owner = np.array([position[a["image_id"]] for a in annotations], np.int64)
    order = np.argsort(owner, kind="stable")
    annotations = [annotations[i] for i in order]
    owner = owner[order]

    label_of = {category.id: index + 1 for index, category in enumerate(categories)}
    labels = np.array([label_of[a["category_id"]] for a in annotations], np.int16)
    iscrowd = np.array([a.get("iscrowd", 0) for a in annotations], bool)
    area = np.array([_area(a) for a in annotations], np.float64)
    boxes_xywh = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    sizes = np.array([(image["width"], image["height"]) for image in images], np.float64)
    boxes, keep, clipped, dropped = clean(boxes_xywh, area, sizes[owner])

    ends = np.searchsorted(owner[keep], np.arange(1, len(images)))
    columns = (boxes[keep].astype(np.float32), labels[keep], iscrowd[keep], area[keep].astype(np.float32))
    per_image = zip(*(np.split(column, ends) for column in columns), strict=True)
    records = [
        ImageRecord(
            image["id"],
            image["file_name"],
            folders[image["id"]],
            image["width"],
            image["height"],
            *parts,
        )
        for image, parts in zip(images, per_image, strict=True)
    ]
    truth = _ground_truth(images, annotations, categories)
    return Split(records, categories, dropped, int(clipped.sum()), truth)


def clean(
    boxes_xywh: NDArray[np.float64], area: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, int]]:
    """Clip boxes [N,4] to their images, sizes [N,2] (width, height), as the original M2Det does.

    Returns boxes xyxy (last pixel inside), which to keep, which of these were clipped, and drops by reason.
    The original keeps boxes of no width, whose encoded size is log(0), and moves boxes that lie wholly
    beyond the left or upper edge to that edge: both are dropped here. Source: qijiezhao/M2Det, data/coco.py.
    """
    corner, extent = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    low = np.maximum(corner, 0)
    high = np.minimum(sizes - 1, low + np.maximum(extent - 1, 0))
    clipped = np.any((corner < -SLACK) | (corner + extent > sizes + SLACK), 1)

    keep = np.ones(len(boxes_xywh), bool)
    dropped = {}
    for reason, applies in (
        (NOT_POSITIVE, area <= 0),
        (OUTSIDE, np.any((corner >= sizes) | (corner + extent <= 0), 1)),
        (TOO_THIN, np.any(high <= low, 1)),
    ):
        dropped[reason] = int(np.sum(keep & applies))
        keep &= ~applies
    return np.concatenate([low, high], 1), keep, clipped & keep, dropped


def read_categories(path: Path) -> list[Category]:
    """The categories of an annotation file, sorted by id. Raises InputError as read_annotations does."""
    return _categories(read_annotations(path)["categories"], path)


@_without_garbage_collection()
def read_annotations(path: Path, outlines: bool = False) -> dict[str, Any]:
    """The content of an annotation file, its images checked: ids, file names and sizes.

    outlines: keep the objects' `segmentation`, which boxes do without and which is most of COCO's files.
    Raises InputError if it is missing, no regular file, no JSON, not in COCO format, or has no images.
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
        if not _whole(image["id"]):
            raise InputError(f"{path}: image id {image['id']!r} must be a whole number")
        if not all(_whole(image[side]) and 0 < image[side] <= LONGEST_SIDE for side in ("width", "height")):
            raise InputError(
                f"{path}: image {image['id']} has width {image['width']!r} and height {image['height']!r}; "
                f"both must be whole numbers from 1 to {LONGEST_SIDE}"
            )
        if not _is_text(image["file_name"]):
            raise InputError(f"{path}: image {image['id']} has file_name {image['file_name']!r}, no text")
        if fault := name_fault(image["file_name"]):
            raise InputError(f"{path}: image {image['id']} has file_name {image['file_name']!r}, {fault}; rename it")
    return content


def check_names(content: dict[str, Any], path: Path) -> None:
    """Raises InputError for the first image of what read_annotations gave whose name leads out of its folder."""
    for image in content["images"]:
        if leaves_folder(image["file_name"]):
            raise InputError(
                f"{path}: image {image['id']} has file_name {image['file_name']!r}, which leads out of the image "
                f"folder; {ADVICE}"
            )


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    # while the file is parsed: afterwards COCO's outlines would have taken 1.2 GB and half of the time
    entry.pop("segmentation", None)
    return entry


def _categories(entries: list[Any], path: Path) -> list[Category]:
    if not entries:
        raise InputError(f"{path} has no categories; a detector needs at least one class")
    for index, entry in enumerate(entries):
        _require(entry, ("id", "name"), f"{path}: category {_name(entry, index)}")
        if not _whole(entry["id"]):
            raise InputError(f"{path}: category id {entry['id']!r} must be a whole number")
        if not (isinstance(entry["name"], int | float) or _is_text(entry["name"])):
            raise InputError(f"{path}: category {entry['id']} has name {entry['name']!r}, no text")
        if not 1 <= len(str(entry["name"])) <= LONGEST_NAME:
            raise InputError(f"{path}: the name of category {entry['id']} must have 1 to {LONGEST_NAME} characters")
    if len(entries) > MOST_CATEGORIES:
        raise InputError(f"{path} has {len(entries)} categories; {MOST_CATEGORIES} are the most")
    for key in ("id", "name"):
        seen: set[str] = set()
        for entry in entries:
            if str(entry[key]) in seen:
                raise InputError(f"{path}: category {key} {entry[key]!r} occurs twice; it must be unique")
            seen.add(str(entry[key]))
    return sorted((Category(e["id"], str(e["name"])) for e in entries), key=lambda category: category.id)


def check_annotations(content: dict[str, Any], path: Path) -> None:
    """Raises InputError for the first annotation of what read_annotations gave that is not as COCO's are."""
    image_ids = {image["id"] for image in content["images"]}
    category_ids = {category.id for category in _categories(content["categories"], path)}
    for index, entry in enumerate(content["annotations"]):
        where = f"{path}: annotation {_name(entry, index)}"
        _require(entry, ("image_id", "category_id", "bbox"), where)
        if not (_whole(entry["image_id"]) and entry["image_id"] in image_ids):
            raise InputError(f"{where} names image id {entry['image_id']!r}, which is not among the images")
        if not (_whole(entry["category_id"]) and entry["category_id"] in category_ids):
            raise InputError(
                f"{where} has category id {entry['category_id']!r}, which is not in the list of categories"
            )
        bbox = entry["bbox"]
        if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_finite, bbox))):
            raise InputError(f"{where} has bbox {bbox!r}; it must be four finite numbers, x y width height")
        if not _finite(_area(entry)):
            raise InputError(f"{where} has area {_area(entry)!r}; it must be a finite number")
        if entry.get("iscrowd", 0) not in (0, 1):
            raise InputError(f"{where} has iscrowd {entry['iscrowd']!r}; it must be 0 or 1")


def _ground_truth(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], categories: list[Category]
) -> dict[str, list[dict[str, Any]]]:
    return {
        "images": [{key: image[key] for key in ("id", "width", "height", "file_name")} for image in images],
        "annotations": [
            {
                "id": number,
                "image_id": a["image_id"],
                "category_id": a["category_id"],
                "bbox": a["bbox"],
                "area": _area(a),
                "iscrowd": a.get("iscrowd", 0),
            }
            for number, a in enumerate(annotations, 1)
        ],
        "categories": [{"id": category.id, "name": category.name} for category in categories],
    }


def _area(annotation: dict[str, Any]) -> Any:
    return annotation["area"] if "area" in annotation else annotation["bbox"][2] * annotation["bbox"][3]


def _require(entry: Any, keys: Sequence[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise InputError(f"{where} must be an object with the keys {', '.join(keys)}, as COCO has it")
    for key in keys:
        if key not in entry:
            raise InputError(f"{where} lacks the key '{key}', which COCO has")


def _name(entry: Any, index: int) -> str:
    """An entry's id, or its place where it has none."""
    return str(entry["id"]) if isinstance(entry, dict) and "id" in entry else f"number {index + 1}"


def _is_text(value: Any) -> bool:
    """Half of a surrogate pair, which JSON can hold, is none: no file and no terminal takes it."""
    return isinstance(value, str) and (value.isascii() or not SURROGATES.search(value))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e12  # float32 has room for their products
