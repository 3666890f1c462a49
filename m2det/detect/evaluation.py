"""Evaluate a detector by one call: the steps of the stage evaluate that make COCO's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m2det.config import Params
from m2det.data.packed.reader import PackedSplit
from m2det.detect.detector import Detector
from m2det.detect.packing import pack_folder
from m2det.detect.settings import Data, recipe_params
from m2det.distributed.group import ALONE
from m2det.errors import InputError
from m2det.evaluate.inference import coco_results_distributed
from m2det.evaluate.metrics import coco_metrics
from m2det.files.whole import temporary_folder, write_whole
from m2det.model import prior_boxes
from m2det.progress import ImageProgress

RECIPE = "own"  # whose settings hold where a call gives no others


def evaluate_detector(detector: Detector, data: Data, **settings: Any) -> dict[str, float]:
    """Return COCO's metrics of a detector on validation or test images.

    Args:
        detector: A trained one; its options, such as `score`, have no part in this.
        data: A packed cache (`out`/cache of train_detector, or data/cache); or a folder or a section `data` as
            train_detector takes, whose validation or test images are packed for the call.
        settings: Of the section `evaluate` of params.yaml, other than those of the recipe `own`; `split="test"` takes
            the test images.

    Returns:
        AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl and `AP/<class>`, in [0,1]; -1 where there is no
        such object.

    Raises:
        InputError: Data or settings are wrong, or the data's classes are not the detector's.
    """
    params = recipe_params(data, RECIPE, {"evaluate": settings}, "evaluate_detector")
    with temporary_folder() as folder:
        cache = Path(params.data.root)
        if not (cache / "manifest.json").is_file():
            cache = pack_folder(params, folder, [params.evaluate.split])
        split = PackedSplit(cache, params.evaluate.split)
        results = folder / "results.json"
        write_whole(results, json.dumps(_detect(detector, split, params)))
        return coco_metrics(split.ground_truth, results, params.evaluate.scorer)


def _detect(detector: Detector, split: PackedSplit, params: Params) -> list[dict[str, Any]]:
    if (list(detector.names), list(detector.category_ids)) != (split.classes, split.category_ids):
        raise InputError(
            f"the detector knows {', '.join(detector.names)}, the data have {', '.join(split.classes)}, with ids "
            f"{list(detector.category_ids)} and {split.category_ids}: they must be the same, in this order"
        )
    model, device = detector.model, detector.device
    priors = prior_boxes(model.config).to(device)
    with ImageProgress("detecting", len(split), stage="evaluate") as progress:
        images = coco_results_distributed(
            model, priors, split, detector.size, device, params.evaluate, params.run.workers, ALONE, progress
        )
    return [entry for image in images for entry in image]
