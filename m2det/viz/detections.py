"""The detections of an image beside its objects, and a contact sheet of the worst and the best images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.viz.draw import BLUE, GREEN, GREY, RED, BoxAnnotation, contact_sheet, thumbnail

SHOWN_SCORE = 0.5  # detections below are not drawn where no other score is chosen
SIDE = 320  # of a thumbnail, px


@dataclass(frozen=True)
class Review:
    """The detections of one image, matched with its objects.

    Attributes:
        index: of the image in the split.
        detections: float [K,6], xyxy in pixels, score, label from 1; best first.
        correct: bool [K], detections that match an object.
        objects: float [N,5], xyxy in pixels, label from 1.
        detected: bool [N], objects that a detection matches.
        ignored: float [M,5], as objects: those that do not count, like crowds.
    """

    index: int
    detections: NDArray[np.float64]
    correct: NDArray[np.bool_]
    objects: NDArray[np.float64]
    detected: NDArray[np.bool_]
    ignored: NDArray[np.float64]

    @property
    def f1(self) -> float:
        """2 x correct / (detections + objects); 1 without objects and detections."""
        total = len(self.correct) + len(self.detected)
        return 2 * float(self.correct.sum()) / total if total else 1.0

    @property
    def summary(self) -> str:
        """How many objects are found, and how many detections are wrong."""
        return f"{int(self.detected.sum())} of {len(self.detected)} found, {int((~self.correct).sum())} wrong"


def draw_review(
    split: PackedSplit, reviews: Sequence[Review], title: Sequence[str], each: int = 8
) -> NDArray[np.uint8]:
    """Draw the worst and the best images by F1, each as a pair: ground truth left, detections right.

    Of images with equal F1 those with more objects come first, so that the best are not the easiest.

    Args:
        split: of the images.
        reviews: one for each image.
        title: lines of text.
        each: most images of each kind.

    Returns:
        uint8 [H,W,3] BGR.
    """
    thumbnails = []
    for kind, item in worst_and_best(reviews, each):
        gap = np.full((SIDE, 4, 3), 255, np.uint8)
        objects, detections = draw_pair(split, item)
        caption = f"{kind}: image {split.image_ids[item.index]}, {item.summary}"
        thumbnails.append((np.concatenate([objects, gap, detections], axis=1), caption))
    return contact_sheet(thumbnails, 2, title)


def worst_and_best(reviews: Sequence[Review], each: int) -> list[tuple[str, Review]]:
    """Return the `each` worst and then best images by F1, each named worst or best, as draw_review chooses them."""
    ranked = sorted(reviews, key=lambda r: (r.f1, -len(r.detected), r.index))
    best = sorted(reviews, key=lambda r: (-r.f1, -len(r.detected), r.index))
    each = min(each, len(ranked) // 2) or 1
    return [("worst", r) for r in ranked[:each]] + [("best", r) for r in best[:each]]


def draw_pair(split: PackedSplit, item: Review) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw an image's ground truth and its detections, uint8 [SIDE,SIDE,3] BGR each."""
    image = decode_bgr(split.record(item.index), split.file_names[item.index])
    objects, detections = _object_annotations(split, item), _detection_annotations(split, item)
    return thumbnail(image, objects, SIDE), thumbnail(image, detections, SIDE)


def _object_annotations(split: PackedSplit, item: Review) -> list[BoxAnnotation]:
    colours = [GREEN if hit else BLUE for hit in item.detected] + [GREY] * len(item.ignored)
    rows = [*item.objects.tolist(), *item.ignored.tolist()]
    return [
        BoxAnnotation((x1, y1, x2, y2), split.classes[int(label) - 1], colour)
        for (x1, y1, x2, y2, label), colour in zip(rows, colours, strict=True)
    ]


def _detection_annotations(split: PackedSplit, item: Review) -> list[BoxAnnotation]:
    return [
        BoxAnnotation((x1, y1, x2, y2), f"{split.classes[int(label) - 1]} {score:.2f}", GREEN if correct else RED)
        for (x1, y1, x2, y2, score, label), correct in zip(item.detections.tolist(), item.correct, strict=True)
    ]
