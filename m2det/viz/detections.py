"""Detections matched with objects, image by image, and a contact sheet of the worst and the best images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from m2det.boxes import iou_xyxy
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.viz.draw import BLUE, GREEN, GREY, RED, BoxAnnotation, contact_sheet, thumbnail

SHOWN_SCORE = 0.5  # detections below are not drawn and not counted here
MIN_IOU = 0.5  # of a detection with its object
SIDE = 320  # of a thumbnail, px


@dataclass(frozen=True)
class Review:
    """The detections of one image, matched with its objects.

    index: of the image in the split. detections: [K,6], xyxy in pixels, score, label.
    correct: bool [K], detections that match an object. detected: bool [N], objects that a detection matches.
    """

    index: int
    detections: NDArray[np.float32]
    correct: NDArray[np.bool_]
    detected: NDArray[np.bool_]

    @property
    def f1(self) -> float:
        """2 x correct / (detections + objects); 1 without objects and detections."""
        total = len(self.correct) + len(self.detected)
        return 2 * float(self.correct.sum()) / total if total else 1.0

    @property
    def summary(self) -> str:
        """How many objects are found, and how many detections are wrong."""
        return f"{int(self.detected.sum())} of {len(self.detected)} found, {int((~self.correct).sum())} wrong"


def review(
    index: int, detections: NDArray[np.float32], boxes: NDArray[np.float32], labels: NDArray[np.int16]
) -> Review:
    """Match the detections of an image, from SHOWN_SCORE on and best first, with its objects.

    Args:
        index: of the image in the split.
        detections: [K,6], xyxy in pixels, score, label.
        boxes: of the objects, [N,4], xyxy in pixels.
        labels: of the objects, [N].
    """
    shown = detections[detections[:, 4] >= SHOWN_SCORE]
    shown = shown[np.argsort(-shown[:, 4], kind="stable")]
    overlap = iou_xyxy(torch.from_numpy(shown[:, :4]), torch.from_numpy(boxes)).numpy()
    correct, detected = np.zeros(len(shown), bool), np.zeros(len(boxes), bool)
    for k, label in enumerate(shown[:, 5]):
        open_objects = np.flatnonzero(~detected & (labels == label) & (overlap[k] >= MIN_IOU))
        if len(open_objects):
            detected[open_objects[np.argmax(overlap[k, open_objects])]] = correct[k] = True
    return Review(index, shown, correct, detected)


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
    objects = split.annotations(item.index)
    names = [split.classes[label - 1] for label in objects.labels]
    crowds = [
        BoxAnnotation(tuple(objects.boxes[i]), f"crowd of {names[i]}", GREY) for i in np.flatnonzero(objects.iscrowd)
    ]
    counted = zip(np.flatnonzero(~objects.iscrowd), item.detected, strict=True)
    return [BoxAnnotation(tuple(objects.boxes[i]), names[i], GREEN if hit else BLUE) for i, hit in counted] + crowds


def _detection_annotations(split: PackedSplit, item: Review) -> list[BoxAnnotation]:
    return [
        BoxAnnotation(tuple(row[:4]), f"{split.classes[int(row[5]) - 1]} {row[4]:.2f}", GREEN if correct else RED)
        for row, correct in zip(item.detections, item.correct, strict=True)
    ]
