"""Data sets in COCO format: annotation files joined into splits, their boxes cleaned for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2det.data.sources.classes import Classes, ClassList, free_ids, require_common, select, unite
from m2det.data.sources.coco_json import CocoFile, gc_disabled, read_coco
from m2det.data.sources.coco_types import TEST, Annotation, Image
from m2det.data.sources.image_folder import ImageFolder
from m2det.data.sources.records import ImageRecord, Note, Split
from m2det.data.sources.root_category import root_categories
from m2det.errors import InputError

NOT_POSITIVE = "area not positive"
OUTSIDE = "outside the image"
TOO_THIN = "1 px or less in width or height"
REASONS = (NOT_POSITIVE, OUTSIDE, TOO_THIN)
TOLERANCE = 0.01  # px: COCO rounds to hundredths, so what exceeds the image by less was not clipped

Sources = Sequence[tuple[Path, Path]]  # pairs of (annotation file, image folder)


@dataclass(frozen=True)
class _Joined:
    """The entries of one split's files, with ids that are unique in the split. images: sorted by id."""

    images: list[Image]
    folders: dict[int, ImageFolder]
    annotations: list[Annotation]
    owner: NDArray[np.int64]  # of each annotation, its image's position, ascending
    labels: NDArray[np.int16]  # from 1
    file: NDArray[np.int64]  # of each annotation, its position among the files


def read_split(sources: Sources, outside: bool = False, classes: Classes = ()) -> Split:
    """Read annotation files as one split. Args and Raises as `read_splits`."""
    return read_splits({"split": sources}, outside, classes)["split"]


@gc_disabled()
def read_splits(sources: Mapping[str, Sources], outside: bool = False, classes: Classes = ()) -> dict[str, Split]:
    """Read annotation files as splits that share one list of classes. Images are not opened.

    Class names decide where files number their categories differently. The files of the split `test` add no class, so
    that a model fits whatever it is tested on, and may lack annotations. An image id that an earlier file of the split
    has, too, is replaced by a free one. What was decided or left out is in the splits' notes.

    Args:
        sources: each split's pairs of (annotation file, image folder).
        outside: whether images may lie out of their folder.
        classes: to select, rename or merge, as data.classes; empty for all.

    Raises:
        InputError: an annotation file is wrong, naming it and the id, or the files have no class in common.
    """
    for name, pairs in sources.items():
        twice = [path for (path, _), number in Counter(pairs).items() if number > 1]
        if twice:
            raise InputError(f"{twice[0]} is listed twice for {name}: its objects would count twice; list it once")
    files = {name: [read_coco(path, outside, name == TEST) for path, _ in pairs] for name, pairs in sources.items()}
    lists = {name: [(file.path, file.categories) for file in each] for name, each in files.items()}
    categories, differences = unite([pair for name, each in lists.items() if name != TEST for pair in each])
    roots, root_notes = root_categories([file for each in files.values() for file in each])
    chosen = select(categories if classes else [c for c in categories if c.name not in roots], classes)
    for name in ("val", TEST):
        if {"train", name} <= lists.keys():
            require_common(lists["train"], lists[name], chosen)
    splits = {}
    for name, pairs in sources.items():
        notes = [note for file in files[name] for note in file.notes] + ([] if classes else root_notes)
        paths = [path for path, _ in pairs]
        notes += [note for path, note in differences if path in paths]
        folders = [ImageFolder(folder, outside) for _, folder in pairs]
        splits[name] = _clean_split(_join(files[name], folders, chosen, notes), paths, chosen, notes)
    return splits


def _join(files: Sequence[CocoFile], folders: Sequence[ImageFolder], classes: ClassList, notes: list[Note]) -> _Joined:
    """Concatenate the files of a split; image ids that are taken become free ones."""
    images: list[Image] = []
    annotations: list[Annotation] = []
    folder_of: dict[int, ImageFolder] = {}
    labels, sizes = [], []
    free = free_ids({image.id for file in files for image in file.images})
    for file, folder in zip(files, folders, strict=True):
        renumbered = {image.id: next(free) for image in file.images if image.id in folder_of}
        for image in file.images:
            image.id = renumbered.get(image.id, image.id)
        index = {category.id: classes.index.get(category.name, -1) for category in file.categories}
        own = np.array([index[a.category_id] for a in file.annotations], np.int64)
        kept = file.annotations
        if (own < 0).any():
            kept = [a for a, label in zip(kept, own, strict=True) if label >= 0]
            left_out = len(own) - len(kept)
            text = f"{file.path}: {left_out} of {len(own)} boxes are of classes that training leaves out (data.classes)"
            notes.append(Note("other-classes-left-out", left_out, text))
        if renumbered:
            for annotation in kept:
                annotation.image_id = renumbered.get(annotation.image_id, annotation.image_id)
            old, new = next(iter(renumbered.items()))
            text = (
                f"{file.path}: {len(renumbered)} of {len(file.images)} image ids occur in an earlier file of this "
                f"split; results and ground truth name these images by new ids, {old} by {new} and so on"
            )
            notes.append(Note("renumbered-images", len(renumbered), text))
        folder_of |= dict.fromkeys((image.id for image in file.images), folder)
        images += file.images
        annotations += kept
        labels.append(own[own >= 0] + 1)
        sizes.append(len(kept))
    images.sort(key=lambda image: image.id)
    position = {image.id: index for index, image in enumerate(images)}
    owner = np.array([position[a.image_id] for a in annotations], np.int64)
    order = np.argsort(owner, kind="stable")
    return _Joined(
        images,
        folder_of,
        [annotations[i] for i in order],
        owner[order],
        np.concatenate(labels).astype(np.int16)[order],
        np.repeat(np.arange(len(files)), sizes)[order],
    )


def _clean_split(joined: _Joined, paths: Sequence[Path], classes: ClassList, notes: list[Note]) -> Split:
    images, annotations, owner = joined.images, joined.annotations, joined.owner
    # training leaves out both; the scores treat each by its own rule
    iscrowd = np.array([a.iscrowd or a.voc_difficult for a in annotations], bool)
    area = np.array([a.area for a in annotations], np.float64)
    boxes_xywh = np.array([a.bbox for a in annotations], np.float64).reshape(-1, 4)
    sizes = np.array([(image.width, image.height) for image in images], np.float64)
    boxes, reason, clipped = clean(boxes_xywh, area, sizes[owner])
    keep = reason < 0
    for number, path in enumerate(paths):
        own = joined.file == number
        for code, words in enumerate(REASONS):
            bad = np.flatnonzero(own & (reason == code))
            if len(bad):
                first = annotations[bad[0]]
                text = (
                    f"{path}: {len(bad)} of {own.sum()} boxes are left out of training: {words}, such as "
                    f"{list(first.bbox)} of {images[owner[bad[0]]].file_name}"
                )
                notes.append(Note("dropped-boxes", len(bad), text))
    ends = np.searchsorted(owner[keep], np.arange(1, len(images)))
    columns = (boxes[keep].astype(np.float32), joined.labels[keep], iscrowd[keep], area[keep].astype(np.float32))
    objects = zip(*(np.split(column, ends) for column in columns), strict=True)
    records = [
        ImageRecord(image.id, image.file_name, joined.folders[image.id], image.width, image.height, *each)
        for image, each in zip(images, objects, strict=True)
    ]
    dropped = {words: int((reason == code).sum()) for code, words in enumerate(REASONS)}
    truth = _ground_truth(images, annotations, joined.labels, classes)
    return Split(records, classes.categories, dropped, int(clipped.sum()), truth, tuple(notes))


def clean(
    boxes_xywh: NDArray[np.float64], area: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int8], NDArray[np.bool_]]:
    """Cut boxes at the edges of their images.

    The original M2Det (qijiezhao/M2Det, data/coco.py) moves boxes that reach over the left or upper edge, keeps those
    that lie wholly beyond it, and keeps boxes of no width, whose encoded size is log(0). Here they are cut or dropped.

    Args:
        boxes_xywh: [N,4], pixels.
        area: [N], of the annotations.
        sizes: [N,2], (width, height) of each box's image.

    Returns:
        boxes xyxy [N,4] (last pixel inside), the position in REASONS of why each is dropped [N] (-1: it is kept), and
        which of the kept ones were clipped [N].
    """
    corner, extent = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    low = np.maximum(corner, 0)
    high = np.minimum(sizes - 1, corner + np.maximum(extent - 1, 0))
    clipped = np.any((corner < -TOLERANCE) | (corner + extent > sizes + TOLERANCE), 1)

    reason = np.full(len(boxes_xywh), -1, np.int8)
    for code, applies in enumerate(
        (area <= 0, np.any((corner >= sizes) | (corner + extent <= 0), 1), np.any(high <= low, 1))
    ):
        reason[(reason < 0) & applies] = code
    return np.concatenate([low, high], 1), reason, clipped & (reason < 0)


def _ground_truth(
    images: Sequence[Image], annotations: Sequence[Annotation], labels: NDArray[np.int16], classes: ClassList
) -> dict[str, list[dict[str, Any]]]:
    category_ids = [category.id for category in classes.categories]
    return {
        "images": [
            {"id": image.id, "width": image.width, "height": image.height, "file_name": image.file_name}
            for image in images
        ],
        "annotations": [
            {
                "id": number,
                "image_id": a.image_id,
                "category_id": category_ids[label - 1],
                "bbox": list(a.bbox),
                "area": a.area,
                "iscrowd": a.iscrowd,
            }
            | ({} if a.voc_difficult is None else {"voc_difficult": a.voc_difficult})
            for number, (a, label) in enumerate(zip(annotations, labels.tolist(), strict=True), 1)
        ],
        "categories": [{"id": category.id, "name": category.name} for category in classes.categories],
    }
