"""Which pixels an image's boxes are of: those as shown, turned by EXIF, or those as stored.

Where the two differ in size, the size that the annotation gives decides. Where they do not (square, upside down,
mirrored), or where the boxes contradict the size, the setting decides: data.orientation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from m2det.config import DataParams
from m2det.data.orientation import SIDEWAYS, as_stored, exif_orientation, stored_size
from m2det.data.sources.coco import REASONS, TOLERANCE, clean
from m2det.data.sources.records import ImageRecord, Note, Split

Setting = Literal["ask", "exif", "stored"]
PLAIN, UPRIGHT, STORED, EXCHANGED, UNCLEAR = "plain", "upright", "stored", "exchanged", "unclear"
CLIPPED = "clipped"
_Cleaned = tuple[NDArray[np.float64], NDArray[np.bool_]]  # boxes xyxy [N,4], and which are kept [N]
REMEDY = (
    "most label tools draw on the image as shown: then set data.orientation: exif; if boxes are of the pixels as "
    "stored, set data.orientation: stored"
)


def orientation_of(data: DataParams) -> Setting:
    """Return data.orientation. COCO 2014 was annotated before browsers turned images: its pixels are as stored."""
    return "stored" if data.orientation == "ask" and data.source.startswith("coco2014") else data.orientation


def which_pixels(data: bytes, record: ImageRecord, extent: Callable[[], NDArray[np.float64]], setting: Setting) -> str:
    """Return which pixels an image's boxes are of.

    Args:
        data: the image file.
        record: its annotation.
        extent: gives float [2], how far its boxes reach to the right and down as annotated, px; few images need that.
        setting: data.orientation.

    Returns:
        PLAIN: the file notes no orientation. UPRIGHT: those as shown. STORED: those in the file. EXCHANGED: those as
        shown, though the annotation gives the stored image's size. UNCLEAR: nothing tells, and the setting is "ask".
    """
    orientation, size = exif_orientation(data), stored_size(data)
    if orientation == 1 or size is None:
        return PLAIN
    shown = size[::-1] if orientation in SIDEWAYS else size
    annotated = record.width, record.height
    if annotated == shown != size:
        return UPRIGHT
    if annotated != size:
        return PLAIN  # of a third size, which the check of sizes tells
    if size == shown:
        return {"ask": UNCLEAR, "exif": UPRIGHT, "stored": STORED}[setting]
    if setting != "ask":
        return {"exif": EXCHANGED, "stored": STORED}[setting]
    reach = extent()
    contradicts = (reach > np.array(size) + TOLERANCE).any() and (reach <= np.array(shown) + TOLERANCE).all()
    return UNCLEAR if contradicts else STORED


def pixels_of(data: bytes, kind: str) -> bytes:
    """Return the image file so that all decode the pixels that its boxes are of."""
    return as_stored(data) if kind == STORED else data


def extents(split: Split) -> NDArray[np.float64]:
    """Return float [N,2]: how far each image's boxes reach to the right and down as annotated, px; 0 without boxes."""
    position = {record.image_id: index for index, record in enumerate(split.records)}
    entries = split.ground_truth["annotations"]
    result = np.zeros((len(position), 2))
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    np.maximum.at(result, [position[entry["image_id"]] for entry in entries], boxes[:, :2] + boxes[:, 2:])
    return result


def exchange_sides(split: Split, image_ids: Collection[int]) -> Split:
    """Return the split with width and height exchanged of some images, and their boxes cleaned again by that.

    Its numbers of dropped and clipped boxes are those by the exchanged sides.
    """
    label_of = {category.id: label for label, category in enumerate(split.categories, 1)}
    entries: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for entry in split.ground_truth["annotations"]:
        if entry["image_id"] in entries:
            entries[entry["image_id"]].append(entry)
    before, after = Counter[str](), Counter[str]()
    records = []
    for record in split.records:
        if record.image_id in entries:
            own = entries[record.image_id]
            before += _clean(own, record.width, record.height)[1]
            boxes, counts = _clean(own, record.height, record.width)
            after += counts
            record = _turned(record, own, boxes, label_of)
        records.append(record)
    images = [
        {**image, "width": image["height"], "height": image["width"]} if image["id"] in entries else image
        for image in split.ground_truth["images"]
    ]
    return replace(
        split,
        records=records,
        dropped={reason: count + after[reason] - before[reason] for reason, count in split.dropped.items()},
        clipped=split.clipped + after[CLIPPED] - before[CLIPPED],
        ground_truth={**split.ground_truth, "images": images},
        notes=(*split.notes, *_notes(before, after, len(entries))),
    )


def _clean(entries: list[dict[str, Any]], width: int, height: int) -> tuple[_Cleaned, Counter[str]]:
    """Return an image's boxes xyxy [N,4] and which are kept [N]; and how many are clipped, and dropped by reason."""
    size = np.full((len(entries), 2), (width, height), np.float64)
    area = np.array([entry["area"] for entry in entries], np.float64)
    boxes_xywh = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    boxes, reason, clipped = clean(boxes_xywh, area, size)
    counts = Counter({CLIPPED: int(clipped.sum())})
    counts.update(REASONS[code] for code in reason.tolist() if code >= 0)
    return (boxes, reason < 0), counts


def _notes(before: Counter[str], after: Counter[str], images: int) -> list[Note]:
    """Return notes on the boxes that reading kept and that are dropped by the exchanged sides, or the other way."""
    notes = []
    for reason in REASONS:
        where = f"by the size as shown of {images} images whose annotations give the stored size"
        if more := max(0, after[reason] - before[reason]):
            notes.append(Note("dropped-boxes", more, f"{more} more boxes are left out of training {where}: {reason}"))
        if fewer := max(0, before[reason] - after[reason]):
            notes.append(Note("kept-boxes", fewer, f"{fewer} of the boxes told as {reason} are kept {where}"))
    return notes


def _turned(
    record: ImageRecord, entries: list[dict[str, Any]], cleaned: _Cleaned, label_of: dict[int, int]
) -> ImageRecord:
    boxes, keep = cleaned
    area = np.array([entry["area"] for entry in entries], np.float64)
    labels = np.array([label_of[entry["category_id"]] for entry in entries], np.int16)
    iscrowd = np.array([entry["iscrowd"] or entry.get("voc_difficult", 0) for entry in entries], bool)
    return replace(
        record,
        width=record.height,
        height=record.width,
        boxes=boxes[keep].astype(np.float32),
        labels=labels[keep],
        iscrowd=iscrowd[keep],
        area=area[keep].astype(np.float32),
    )
