"""VOC's objects marked difficult: neither found nor missed, and detections of them neither right nor wrong.

By the rule of VOC's development kit (VOCevaldet.m): a detection belongs to the object of its class that it overlaps
most. Where that overlap is above 0.5 and the object is difficult, the detection does not count, like others of the same
object; where the overlap is less, it is a false alarm.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

IOU = 0.5
Key = tuple[int, int]  # image id, category id


def without_difficult(
    truth: dict[str, Any], results: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the ground truth without difficult objects, and the detections without those that belong to one.

    Data of another format than VOC's, whose annotations have no `voc_difficult`, are returned as they are.

    Args:
        truth: in COCO's format.
        results: in the format of COCO's results.
    """
    annotations = truth["annotations"]
    if not any(a.get("voc_difficult") for a in annotations):
        return truth, results
    of_key: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for a in annotations:
        of_key[a["image_id"], a["category_id"]].append(a)
    boxes = {key: np.array([a["bbox"] for a in each], float) for key, each in of_key.items()}
    difficult = {key: np.array([a["voc_difficult"] for a in each], bool) for key, each in of_key.items()}

    def counts(result: dict[str, Any]) -> bool:
        key = result["image_id"], result["category_id"]
        if key not in boxes or not difficult[key].any():
            return True
        overlaps = iou_xywh(np.array(result["bbox"], float), boxes[key])
        best = int(overlaps.argmax())
        return not (overlaps[best] >= IOU and difficult[key][best])

    kept = [a for a in annotations if not a["voc_difficult"]]
    return truth | {"annotations": kept}, [result for result in results if counts(result)]


def iou_xywh(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU [N] of a box [4] with others [N,4], all xywh.

    Of boxes made of VOC's pixels, counted with the first and the last, this is the development kit's overlap.
    """
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), 1)
    union = box[2] * box[3] + boxes[:, 2] * boxes[:, 3] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
