"""Data sets in COCO format: annotation files joined into one split, their boxes cleaned for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2det.data.sources.coco_json import area_of, check_annotations, check_categories, gc_disabled, read_annotations
from m2det.data.sources.image_folder import ImageFolder
from m2det.data.sources.records import Category, ImageRecord, Split
from m2det.errors import InputError

NOT_POSITIVE = "area not positive"
OUTSIDE = "outside the image"
TOO_THIN = "1 px or less in width or height"
TOLERANCE = 0.01  # px: COCO rounds to hundredths, so what exceeds the image by less was not clipped


@gc_disabled()
def read_split(sources: Sequence[tuple[Path, Path]], outside: bool = False) -> Split:
    """Read annotation files as one split. Images are not opened.

    `area` and `iscrowd`, which many exports leave out, default to w*h and 0.

    Args:
        sources: pairs of (annotation file, image folder).
        outside: whether images may lie out of their folder.

    Raises:
        InputError: an annotation file is wrong, naming it and the id, or files disagree on categories.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: list[Category] = []
    folders: dict[int, ImageFolder] = {}
    for path, folder in sources:
        content, image_folder = read_annotations(path, outside), ImageFolder(folder, outside)
        own_categories = check_categories(content, path)
        if categories and own_categories != categories:
            raise InputError(
                f"{path} has other categories (ids and names) than {sources[0][0]}; one split needs one list"
            )
        categories = own_categories
        for image in content["images"]:
            if image["id"] in folders:
                raise InputError(f"{path}: image id {image['id']} occurs twice in this split; it must be unique")
            folders[image["id"]] = image_folder
        check_annotations(content, path)
        images += content["images"]
        annotations += content["annotations"]

    images.sort(key=lambda image: image["id"])
    position = {image["id"]: index for index, image in enumerate(images)}
    owner = np.array([position[a["image_id"]] for a in annotations], np.int64)
    order = np.argsort(owner, kind="stable")
    annotations = [annotations[i] for i in order]
    columns, dropped, clipped = _clean_columns(images, annotations, owner[order], categories)
    records = [
        ImageRecord(image["id"], image["file_name"], folders[image["id"]], image["width"], image["height"], *objects)
        for image, objects in zip(images, columns, strict=True)
    ]
    return Split(records, categories, dropped, clipped, _ground_truth(images, annotations, categories))


def _clean_columns(
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    owner: NDArray[np.int64],
    categories: list[Category],
) -> tuple[list[tuple[Any, ...]], dict[str, int], int]:
    """Return each image's boxes, labels, iscrowd and area as in ImageRecord, drops by reason, and how many are clipped.

    owner: index of each annotation's image, ascending.
    """
    label_of = {category.id: index + 1 for index, category in enumerate(categories)}
    labels = np.array([label_of[a["category_id"]] for a in annotations], np.int16)
    iscrowd = np.array([a.get("iscrowd", 0) for a in annotations], bool)
    area = np.array([area_of(a) for a in annotations], np.float64)
    boxes_xywh = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    sizes = np.array([(image["width"], image["height"]) for image in images], np.float64)
    boxes, keep, clipped, dropped = clean(boxes_xywh, area, sizes[owner])
    ends = np.searchsorted(owner[keep], np.arange(1, len(images)))
    columns = (boxes[keep].astype(np.float32), labels[keep], iscrowd[keep], area[keep].astype(np.float32))
    return list(zip(*(np.split(column, ends) for column in columns), strict=True)), dropped, int(clipped.sum())


def clean(
    boxes_xywh: NDArray[np.float64], area: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, int]]:
    """Clip boxes to their images, as the original M2Det does (qijiezhao/M2Det, data/coco.py).

    The original keeps boxes of no width, whose encoded size is log(0), and moves boxes that lie wholly beyond the left
    or upper edge to that edge: both are dropped here.

    Args:
        boxes_xywh: [N,4], pixels.
        area: [N], of the annotations.
        sizes: [N,2], (width, height) of each box's image.

    Returns:
        boxes xyxy [N,4] (last pixel inside), which to keep [N], which of these were clipped [N], drops by reason.
    """
    corner, extent = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    low = np.maximum(corner, 0)
    high = np.minimum(sizes - 1, low + np.maximum(extent - 1, 0))
    clipped = np.any((corner < -TOLERANCE) | (corner + extent > sizes + TOLERANCE), 1)

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


def _ground_truth(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], categories: list[Category]
) -> dict[str, list[dict[str, Any]]]:
    return {
        "images": [{key: image[key] for key in ("id", "width", "height", "file_name")} for image in images],
        "annotations": [
            {"id": number, **{key: a[key] for key in ("image_id", "category_id", "bbox")}}
            | {"area": area_of(a), "iscrowd": a.get("iscrowd", 0)}
            for number, a in enumerate(annotations, 1)
        ],
        "categories": [{"id": category.id, "name": category.name} for category in categories],
    }
