"""The NumPy twin of the compiled NMS: the same two functions, slow and readable, for the tests to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def nms(dets: NDArray[np.float32], iou_threshold: float) -> NDArray[np.int64]:
    """Apply hard NMS as `m2det.ops.nms` does."""
    order = np.argsort(-dets[:, 4], kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        intersections = _intersections(dets[best], dets[order])
        # float32 throughout, as the original's cpu_nms
        overlaps = intersections / (_areas(dets[best], np.float32) + _areas(dets[order], np.float32) - intersections)
        order = order[overlaps.astype(np.float64) < iou_threshold]
    return np.array(kept, dtype=np.int64)


def soft_nms(
    dets: NDArray[np.float32],
    method: str,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
) -> NDArray[np.float32]:
    """Apply soft-NMS as `m2det.ops.soft_nms` does."""
    rows = list(dets.copy())
    selected = []
    while rows:
        # swap the best row and the first one: the order of the other rows decides later ties
        best = int(np.argmax([row[4] for row in rows]))
        rows[0], rows[best] = rows[best], rows[0]
        top = rows.pop(0)
        selected.append(top)
        if not rows:
            break
        boxes = np.stack(rows)
        intersections = _intersections(top, boxes)
        # the original's cpu_soft_nms adds areas in double precision and stores float32
        areas = _areas(boxes, np.float64).astype(np.float32)
        overlaps = intersections / (_areas(top, np.float64) + areas - intersections).astype(np.float32)
        weights = _weights(overlaps, method, np.float32(iou_threshold), np.float32(sigma))
        for row, weight in zip(rows, weights, strict=True):
            row[4] *= weight
        dropped = {
            id(row)
            for row, overlap in zip(rows, overlaps, strict=True)
            if overlap > 0 and row[4] < np.float32(score_threshold)
        }
        i = 0
        while i < len(rows):
            if id(rows[i]) in dropped:  # the last row takes the place of a dropped one
                last = rows.pop()
                if i < len(rows):
                    rows[i] = last
            else:
                i += 1
    return np.array(selected, dtype=np.float32).reshape(-1, 5)


def _intersections(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersections in pixels of one box [5] with boxes [N,5]: float32 [N]."""
    sizes = np.minimum(box[2:4], boxes[:, 2:4]) - np.maximum(box[:2], boxes[:, :2]) + np.float32(1)
    return np.where((sizes > 0).all(axis=1), sizes[:, 0] * sizes[:, 1], np.float32(0))


def _areas(boxes: NDArray[np.float32], dtype: DTypeLike) -> NDArray[Any]:
    """Return the areas [...] in pixels of boxes [...,5], computed in `dtype`."""
    sizes = (boxes[..., 2:4] - boxes[..., :2]).astype(dtype) + 1
    return sizes[..., 0] * sizes[..., 1]


def _weights(overlaps: NDArray[Any], method: str, iou_threshold: np.float32, sigma: np.float32) -> NDArray[np.float32]:
    if method == "gaussian":
        return np.exp((-(overlaps * overlaps) / sigma).astype(np.float64)).astype(np.float32)
    lowered = 1 - overlaps if method == "linear" else np.zeros_like(overlaps)
    return np.where(overlaps > iou_threshold, lowered, np.float32(1))
