"""Whether a model leaves more boxes than anybody could look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from m2det.config import EvaluateParams
from m2det.viz.detections import SHOWN_SCORE

MANY = 200  # boxes of an image, on average
FILLED = 0.9  # of what evaluate.per_class and per_image keep, where that is less
TIMES = 2  # as many as are annotated; images with hundreds of objects are to have hundreds of boxes


def describe_crowding(
    results: Sequence[Sequence[dict[str, Any]]], objects: int, classes: int, settings: EvaluateParams
) -> list[str]:
    """Return a sentence on a model that leaves too many boxes with a score that is drawn, else nothing.

    Args:
        results: entries of a COCO results file, for each image.
        objects: annotated in all of these images.
        classes: of the model.
        settings: what the results were made with.
    """
    boxes = sum(entry["score"] >= SHOWN_SCORE for image in results for entry in image)
    kept = min(settings.per_class * classes, settings.per_image or math.inf)
    if boxes <= min(MANY, FILLED * kept) * len(results) or boxes <= TIMES * objects:
        return []
    return [
        f"warning: the model leaves {boxes / len(results):.0f} boxes with a score of {SHOWN_SCORE} or more on an "
        f"image, where {objects / len(results):.1f} objects are annotated: it has not learned the background; "
        "train for more epochs or from pretrained weights, and with a lower train.lr if the losses do not fall; "
        "`m2det detect --score 0.9` draws fewer boxes"
    ]
