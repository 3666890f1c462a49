"""Image by image: what was found, what was missed, what was wrong; and the sheet that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from m2det.boxes import iou_xyxy
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.viz.draw import BLUE, GREEN, RED, Mark, sheet, tile

SHOWN_SCORE = 0.5  # detections below are not drawn and not counted here
MATCH_IOU = 0.5


@dataclass(frozen=True)
class Review:
    """One image. correct bool [K]: which detections found an object; found bool [N]: which objects were found."""

    index: int
    detections: NDArray[np.float32]
    correct: NDArray[np.bool_]
    found: NDArray[np.bool_]

    @property
    def f1(self) -> float:
        """2 x found / (detections + objects); 1 where there is nothing to find and nothing was found."""
        total = len(self.correct) + len(self.found)
        return 2 * float(self.correct.sum()) / total if total else 1.0


def review(
    index: int, detections: NDArray[np.float32], boxes: NDArray[np.float32], labels: NDArray[np.int16]
) -> Review:
    """Match detections [K,6] above SHOWN_SCORE, best first, with objects (boxes [N,4] xyxy pixels, labels [N])."""
    shown = detections[detections[:, 4] >= SHOWN_SCORE]
    shown = shown[np.argsort(-shown[:, 4], kind="stable")]
    overlap = iou_xyxy(torch.from_numpy(shown[:, :4]), torch.from_numpy(boxes)).numpy()
    correct, found = np.zeros(len(shown), bool), np.zeros(len(boxes), bool)
    for k, label in enumerate(shown[:, 5]):
        open_objects = np.flatnonzero(~found & (labels == label) & (overlap[k] >= MATCH_IOU))
        if len(open_objects):
            found[open_objects[np.argmax(overlap[k, open_objects])]] = correct[k] = True
    return Review(index, shown, correct, found)


def draw_review(
    split: PackedSplit, reviews: Sequence[Review], title: Sequence[str], each: int = 8
) -> NDArray[np.uint8]:
    """The worst and the best images by F1, each as a pair: ground truth left, detections right.

    Among equals those with more objects come first, so that the best are not the easiest.
    """
    ranked = sorted(reviews, key=lambda r: (r.f1, -len(r.found), r.index))
    best = sorted(reviews, key=lambda r: (-r.f1, -len(r.found), r.index))
    each = min(each, len(ranked) // 2) or 1
    chosen = [("worst", r) for r in ranked[:each]] + [("best", r) for r in best[:each]]
    tiles = []
    for kind, item in chosen:
        image = decode_bgr(split.record(item.index), split.file_names[item.index])
        truth, found = _truth_marks(split, item), _detection_marks(split, item)
        gap = np.full((SIDE, 4, 3), 255, np.uint8)
        pair = np.concatenate([tile(image, truth, SIDE), gap, tile(image, found, SIDE)], axis=1)
        caption = (
            f"{kind}: image {split.image_ids[item.index]}, {int(item.found.sum())} of {len(item.found)} found, "
            f"{int((~item.correct).sum())} wrong"
        )
        tiles.append((pair, caption))
    return sheet(tiles, 2, title)


SIDE = 320


def _truth_marks(split: PackedSplit, item: Review) -> list[Mark]:
    objects = split.annotations(item.index)
    counted = ~objects.iscrowd
    marks = [
        Mark(tuple(box), split.classes[label - 1], GREEN if found else BLUE)
        for box, label, found in zip(objects.boxes[counted], objects.labels[counted], item.found, strict=True)
    ]
    crowds = zip(objects.boxes[~counted], objects.labels[~counted], strict=True)
    return marks + [Mark(tuple(box), f"crowd of {split.classes[label - 1]}", (160, 160, 160)) for box, label in crowds]


def _detection_marks(split: PackedSplit, item: Review) -> list[Mark]:
    return [
        Mark(tuple(row[:4]), f"{split.classes[int(row[5]) - 1]} {row[4]:.2f}", GREEN if correct else RED)
        for row, correct in zip(item.detections, item.correct, strict=True)
    ]
