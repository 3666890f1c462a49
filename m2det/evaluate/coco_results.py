"""Convert detections to entries of a COCO results file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def coco_results(
    image_id: int, size: tuple[int, int], detections: NDArray[np.float32], category_ids: list[int]
) -> list[dict[str, Any]]:
    """Convert one image's detections to entries of a COCO results file.

    Args:
        image_id: The image's id.
        size: (width, height) of the image in pixels.
        detections: float32 [K,6]: xyxy in pixels, score, label from 1.
        category_ids: COCO category id of each class.

    Returns:
        Entries with image_id, category_id, bbox (xywh, clipped to the image) and score. A box is x2 - x1 + 1 pixels
        wide, as in the original: training subtracts that pixel.
    """
    width, height = size
    results = []
    for x1, y1, x2, y2, score, label in detections.tolist():
        x1, x2 = (min(max(x, 0.0), width - 1.0) for x in (x1, x2))
        y1, y2 = (min(max(y, 0.0), height - 1.0) for y in (y1, y2))
        box = [round(v, 2) for v in (x1, y1, x2 - x1 + 1, y2 - y1 + 1)]
        category_id = category_ids[int(label) - 1]
        results.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": round(score, 5)})
    return results
