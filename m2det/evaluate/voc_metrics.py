"""Pascal VOC's own mAP at IoU 0.5: by 11 points, as until 2009, and by all points, as since 2010."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2det.evaluate.difficult import IOU, Key, iou_xywh, without_difficult
from m2det.evaluate.results_file import read_results
from m2det.evaluate.undefined import UNDEFINED


def voc_scores(ground_truth_json: str | Path, results_json: str | Path) -> dict[str, Any]:
    """Return VOC's average precision, as VOC's development kit computes it.

    Args:
        ground_truth_json: annotations in COCO's format, `voc_difficult` in those of VOC.
        results_json: a list of {image_id, category_id, bbox (xywh), score}.

    Returns:
        mAP_11_points and mAP_all_points, the means over the classes with objects that are not difficult, and `classes`
        with AP_11_points, AP_all_points and the number of objects of each; the means are -1 without such objects.
        Empty for data that are not VOC's.

    Raises:
        InputError: as coco_metrics.
    """
    truth = json.loads(Path(ground_truth_json).read_text())
    if not any("voc_difficult" in a for a in truth["annotations"]):
        return {}
    truth, results = without_difficult(truth, read_results(results_json, truth, ground_truth_json))
    boxes: dict[Key, list[list[float]]] = defaultdict(list)
    for a in truth["annotations"]:
        boxes[a["image_id"], a["category_id"]].append(a["bbox"])
    results_of = defaultdict(list)
    for result in results:
        results_of[result["category_id"]].append(result)
    classes = {}
    for category in truth["categories"]:
        of_class = {image: np.array(each, float) for (image, label), each in boxes.items() if label == category["id"]}
        if total := sum(map(len, of_class.values())):
            right = _right(results_of[category["id"]], of_class)
            recall = np.cumsum(right) / total
            precision = np.cumsum(right) / np.arange(1, len(right) + 1)
            classes[category["name"]] = {
                "AP_11_points": ap_11_points(recall, precision),
                "AP_all_points": ap_all_points(recall, precision),
                "objects": total,
            }
    means = {
        f"m{key}": float(np.mean([c[key] for c in classes.values()])) if classes else UNDEFINED
        for key in ("AP_11_points", "AP_all_points")
    }
    return means | {"iou": IOU, "classes": classes}


def _right(results: list[dict[str, Any]], boxes: dict[int, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Return which of a class's detections, best first, are the first one of the object that they overlap most."""
    found: set[tuple[int, int]] = set()
    right = []
    for result in sorted(results, key=lambda result: -result["score"]):
        image = result["image_id"]
        overlaps = iou_xywh(np.array(result["bbox"], float), boxes[image]) if image in boxes else np.zeros(1)
        best = int(overlaps.argmax())
        right.append(overlaps[best] >= IOU and (image, best) not in found)
        if right[-1]:
            found.add((image, best))
    return np.array(right, bool)


def ap_11_points(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Return the mean of the best precision at recall of at least 0, 0.1, ..., 1."""
    return float(np.mean([precision[recall >= k / 10].max(initial=0) for k in range(11)]))


def ap_all_points(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Return the area below the precision, made to fall, over recall."""
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * falling))
