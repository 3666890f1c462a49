"""The parts of the report page on AP by size and by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from m2det.evaluate.error_kinds import Matches
from m2det.evaluate.report_errors import show_ap
from m2det.evaluate.thresholds import STEPS, threshold_curves
from m2det.evaluate.undefined import UNDEFINED
from m2det.viz.page import Html, bar, cut, details, explained, paragraph, table

SIDES = {"small": (0, 32), "medium": (32, 96), "large": (96, 1e5)}  # COCO's: an object of 32 x 32 px counts as both
MAX_CLASSES = 100  # rows of a table that is open at first


def describe_sizes(matches: Matches, metrics: Mapping[str, float]) -> list[Html]:
    """Return AP and recall of small, medium and large objects."""
    rows = []
    for size, (low, high) in SIDES.items():
        area, letter = matches.object_area, size[0]
        count = int(((area >= low**2) & (area <= high**2)).sum())
        reach = f"up to {high} x {high} px" if size == "small" else f"from {low} x {low} px on"
        ap, recall = metrics[f"AP{letter}"], metrics[f"AR{letter}"]
        rows.append((explained(size, reach), bar(ap, show_ap(ap)), bar(recall, show_ap(recall)), f"{count:,}"))
    return [
        paragraph(
            "By the annotated area. Recall is with 100 detections an image; both are means over IoU 0.50 to 0.95."
        ),
        table(("objects", "AP", "recall", "number"), rows),
    ]


def describe_classes(matches: Matches, class_ap: NDArray[np.float64], best: float) -> list[Html]:
    """Return AP [K,4] by class and size, and precision, recall and F1 at a threshold by class."""
    objects = np.bincount(matches.object_label, minlength=len(matches.classes))
    there = np.flatnonzero(objects)
    there = there[np.argsort(class_ap[there, 0], kind="stable")]
    without = [cut(matches.classes[label]) for label in np.flatnonzero(objects == 0)]
    header = ("class", "AP", "small", "medium", "large", "objects", "precision", "recall", "F1", "best threshold")
    rows = list(_rows(matches, class_ap, best, there.tolist(), objects.tolist()))
    parts = [
        paragraph(
            "The lowest AP first, then AP of small, medium and large objects. Precision, recall and F1 are with the "
            f"detections from score {best:.2f} on."
        )
    ]
    if rows:
        parts.append(table(header, rows[:MAX_CLASSES]))
    if rows[MAX_CLASSES:]:
        parts.append(details(f"the other {len(rows) - MAX_CLASSES} classes", table(header, rows[MAX_CLASSES:])))
    if without:
        parts.append(details(f"{len(without)} classes without objects here", paragraph(", ".join(without))))
    return parts


def _rows(
    matches: Matches, class_ap: NDArray[np.float64], best: float, labels: Sequence[int], objects: Sequence[int]
) -> Iterator[tuple[object, ...]]:
    at = round(best * 100)
    for label in labels:
        ap, *sizes = class_ap[label].tolist()
        curves = threshold_curves(matches, label)
        found = ((matches.label == label) & (matches.score >= best)).any()
        yield (
            cut(matches.classes[label]),
            bar(ap, show_ap(ap)),
            *("-" if each == UNDEFINED else f"{each:.3f}" for each in sizes),
            f"{objects[label]:,}",
            f"{curves.precision[at]:.2f}" if found else "none detected",
            f"{curves.recall[at]:.2f}",
            f"{curves.f1[at]:.2f}",
            f"{STEPS[curves.best]:.2f}" if curves.f1.any() else "none",
        )
