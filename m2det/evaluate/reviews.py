"""The detections that are drawn beside the objects of an image: those that COCO's AP50 counts, from a score on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2det.evaluate.error_kinds import RIGHT, Floats, Matches
from m2det.viz.detections import Review


def review_images(matches: Matches, truth: Mapping[str, Any], image_ids: Sequence[int], score: float) -> list[Review]:
    """Return the review of each image, in the order of the ids.

    Args:
        matches: of the detections with the objects; labels are in the order of category ids.
        truth: in COCO's format, with crowds and VOC's difficult objects, which are shown and do not count.
        image_ids: of the images of a split.
        score: of the detections to show, at least.
    """
    m = matches
    shown = np.flatnonzero(m.score >= score)
    found = np.full(len(m.object_label), False)
    found[m.object[shown[m.kind[shown] == RIGHT]]] = True
    ignored = _ignored(truth)
    detections, objects = _rows_of(m.image_id[shown], image_ids), _rows_of(m.object_image, image_ids)
    reviews = []
    for index, image_id in enumerate(image_ids):
        rows, theirs = shown[detections[image_id]], objects[image_id]
        reviews.append(
            Review(
                index=index,
                detections=np.column_stack([xyxy(m.box[rows]), m.score[rows], m.label[rows] + 1]),
                correct=m.kind[rows] == RIGHT,
                objects=np.column_stack([xyxy(m.object_box[theirs]), m.object_label[theirs] + 1]),
                detected=found[theirs],
                ignored=np.array(ignored[image_id], np.float64).reshape(-1, 5),
            )
        )
    return reviews


def xyxy(boxes: Floats) -> Floats:
    """Return boxes xywh of COCO as first and last pixels."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1], 1)


def _rows_of(ids: NDArray[np.int64], image_ids: Sequence[int]) -> dict[int, NDArray[np.int64]]:
    """Return the positions of each image in sorted ids."""
    first, last = (np.searchsorted(ids, np.array(image_ids, np.int64), side) for side in ("left", "right"))
    return {image_id: np.arange(a, b) for image_id, a, b in zip(image_ids, first, last, strict=True)}


def _ignored(truth: Mapping[str, Any]) -> defaultdict[int, list[list[float]]]:
    """Return the objects of each image that do not count, xyxy and label from 1."""
    label_of = {number: label for label, number in enumerate(sorted(c["id"] for c in truth["categories"]), 1)}
    rows: defaultdict[int, list[list[float]]] = defaultdict(list)
    for a in truth["annotations"]:
        if a.get("iscrowd") or a.get("voc_difficult"):
            box = xyxy(np.array([a["bbox"]], np.float64))[0]
            rows[a["image_id"]].append([*box.tolist(), label_of[a["category_id"]]])
    return rows
