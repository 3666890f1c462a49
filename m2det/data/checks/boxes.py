"""Doubts about boxes: in another form than x y width height, repeated, or more than evaluation counts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from m2det.config import EvaluateParams
from m2det.data.checks.table import BoxTable
from m2det.data.findings import Finding
from m2det.text import printable

SLACK = 1.0  # px over an edge: rounding
ALL = 0.99  # share of boxes that must fit another form, for it to be named
OVER_EDGE = 0.02  # share over an edge from which another form that fits is named
MANY_OVER_EDGE = 0.2  # and from which that is a doubt in itself
SCORER_KEEPS = 100  # detections of an image and class: pycocotools' maxDets
REPEATED = "exact repetitions count as objects that no detection can find; remove them"


def check_boxes(table: BoxTable, evaluate: EvaluateParams) -> Iterator[Finding]:
    """Yield the doubts about a split's boxes."""
    if len(table.boxes):
        yield from _form(table)
        yield from _areas(table)
        yield from _repeated(table)
        yield from _crowded(table, evaluate)


def _form(table: BoxTable) -> Iterator[Finding]:
    """Yield in which form boxes seem to be. Each form predicts which of them reach over an edge of their image."""
    first, second, count = table.boxes[:, :2], table.boxes[:, 2:], len(table.boxes)
    if (np.abs(table.boxes).max(1) <= 1.5).mean() >= ALL and table.sizes.min() > 8:
        text = (
            f"all values of {count} boxes are below 1.5, in images of up to {table.sizes.max():.0f} px: they look like "
            "fractions of the image; bbox is x y width height in pixels"
        )
        yield Finding("normalized-boxes", text, count, table.examples(np.ones(count, bool)), table.split)
        return
    over = ~_inside(first, first + second, table.sizes)
    corners = (second > first).all(1) & _inside(first, second, table.sizes)
    centers = _inside(first - second / 2, first + second / 2, table.sizes)
    share = f"{over.sum()} of {count} boxes ({over.mean():.0%}) reach over an edge of their image"
    form = "bbox is x y width height, x y being the upper left corner"
    if over.mean() >= OVER_EDGE and corners.mean() >= ALL:
        as_corners, as_sides = (np.isclose(table.area, sides.prod(1), rtol=0.02) for sides in (second - first, second))
        areas = int(np.count_nonzero(as_corners & ~as_sides))
        also = f", and the area of {areas} is theirs as corners, not w x h" if areas else ""
        text = f"{share}; as x1 y1 x2 y2 {corners.sum()} lie inside{also}: boxes look like x1 y1 x2 y2; {form}"
        yield Finding("corner-boxes", text, int(over.sum()), table.examples(over), table.split)
    elif corners.mean() >= ALL and (as_corners := _are_corner_areas(table, first, second)).mean() >= ALL:
        text = f"the area of {as_corners.sum()} of {count} boxes is theirs as x1 y1 x2 y2, not w x h; {form}"
        yield Finding("corner-boxes", text, int(as_corners.sum()), table.examples(as_corners), table.split)
    elif over.mean() >= OVER_EDGE and centers.mean() >= ALL:
        text = f"{share}; as center x, center y, w, h {centers.sum()} lie inside: boxes look centre-based; {form}"
        yield Finding("center-boxes", text, int(over.sum()), table.examples(over), table.split)
    elif over.mean() >= MANY_OVER_EDGE:
        text = f"{share} and are cut there; were they made for images of another size, or in another form? {form}"
        yield Finding("over-edge", text, int(over.sum()), table.examples(over), table.split)


def _are_corner_areas(table: BoxTable, first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.bool_]:
    of_corners, of_sides = (np.isclose(table.area, sides.prod(1), rtol=0.02) for sides in (second - first, second))
    return np.logical_and(of_corners, ~of_sides, dtype=bool)


def _inside(low: NDArray[np.float64], high: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.logical_and((low >= -SLACK).all(1), (high <= sizes + SLACK).all(1), dtype=bool)


def _areas(table: BoxTable) -> Iterator[Finding]:
    above = (table.area > 1.05 * table.boxes[:, 2:].prod(1) + 1) & ~table.crowd
    if above.mean() >= OVER_EDGE:
        text = (
            f"the area of {above.sum()} of {len(above)} boxes is larger than width x height, which no object's is: "
            "areas or boxes are in another form or unit; evaluation sorts objects by area into small, medium and large"
        )
        yield Finding("area-above-box", text, int(above.sum()), table.examples(above), table.split)


def _repeated(table: BoxTable) -> Iterator[Finding]:
    hundredths = np.round(table.boxes * 100).astype(np.int64)
    rows = np.column_stack([table.image, table.label, hundredths]).astype(np.uint64)
    # one number of 64 bits for a row: sorting rows takes ten times as long at COCO's size
    keys = (rows * np.random.default_rng(0).integers(1, 2**63, 6, np.uint64)).sum(1, dtype=np.uint64)
    order = np.argsort(keys, kind="stable")
    repeats = np.zeros(len(keys), bool)
    repeats[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    if repeats.any():
        text = f"{repeats.sum()} boxes occur before in the same image with the same class; {REPEATED}"
        yield Finding("repeated-boxes", text, int(repeats.sum()), table.examples(repeats), table.split)


def _crowded(table: BoxTable, evaluate: EvaluateParams) -> Iterator[Finding]:
    """Yield whether evaluation keeps fewer detections of a class than an image has objects, and the AP that is left."""
    objects = ~table.crowd
    pairs, counts = np.unique(np.stack([table.image[objects], table.label[objects]]), axis=1, return_counts=True)
    kept = min(evaluate.per_class, SCORER_KEEPS)
    crowded = counts > kept
    yield from _crowded_images(table, evaluate)
    if not crowded.any():
        return
    worst = int(np.argmax(counts))
    label, most = pairs[1, worst], counts[worst]
    of_class = counts[pairs[1] == label]
    limit = (
        f"COCO's scorer counts {SCORER_KEEPS} of an image and class"
        if kept == SCORER_KEEPS
        else f"evaluate.per_class keeps {kept} (COCO's scorer counts up to {SCORER_KEEPS})"
    )
    ap = ap_limit(np.minimum(of_class, kept).sum() / of_class.sum())
    text = (
        f"{most} boxes of one class ({printable(table.classes[label - 1])}) in an image, {crowded.sum()} times more "
        f"than {kept}; but {limit}: AP of that class cannot exceed {ap:.2f}; cut such images into tiles"
    )
    rows = [(table.names[pairs[0, i]], counts[i], table.classes[pairs[1, i] - 1]) for i in np.flatnonzero(crowded)[:20]]
    names = tuple(f"{name}: {number} of {class_name}" for name, number, class_name in rows)
    yield Finding("crowded", text, int(crowded.sum()), names, table.split)


def _crowded_images(table: BoxTable, evaluate: EvaluateParams) -> Iterator[Finding]:
    """Yield whether evaluation keeps fewer detections of an image than it has objects of all classes."""
    images, counts = np.unique(table.image[~table.crowd], return_counts=True)
    crowded = counts > evaluate.per_image
    if not evaluate.per_image or not crowded.any():
        return
    found = np.minimum(counts, evaluate.per_image).sum() / counts.sum()
    text = (
        f"{counts.max()} boxes of all classes in an image, {crowded.sum()} times more than evaluate.per_image "
        f"{evaluate.per_image}, which keeps {found:.0%} of all objects at most; raise it, 0 keeps all"
    )
    names = tuple(f"{table.names[images[i]]}: {counts[i]}" for i in np.flatnonzero(crowded)[:20])
    yield Finding("crowded", text, int(crowded.sum()), names, table.split)


def ap_limit(recall: float) -> float:
    """Return the highest AP at that recall: COCO averages precision over 101 recalls, 0 to 1."""
    return float(np.floor(100 * recall + 1e-9) + 1) / 101
