"""AP during training: always measured the same way, whatever the final evaluation is asked to do."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from m2det.config import EvaluateParams
from m2det.data.packed.reader import PackedSplit
from m2det.distributed.group import Group
from m2det.evaluate.inference import coco_results_distributed
from m2det.evaluate.metrics import coco_metrics
from m2det.files.whole import temporary_folder, write_whole
from m2det.model import M2Det

SETTINGS = EvaluateParams(
    batch_size=32, nms="linear", score_threshold=0.05, nms_iou=0.3, per_class=50, per_image=100, scorer="auto"
)


def validate(
    model: M2Det, priors: Tensor, split: PackedSplit, size: int, device: torch.device, group: Group
) -> dict[str, float]:
    """The COCO numbers of the split, every image counted once; the model is left in evaluation mode.

    Each process of the group takes its part of the images, and all get the same numbers.
    """
    model.eval()
    found = coco_results_distributed(model, priors, split, size, device, SETTINGS, group)
    results = [entry for image in found for entry in image]
    with temporary_folder() as folder:
        path = folder / "results.json"
        write_whole(path, json.dumps(results))
        return coco_metrics(split.ground_truth, path)
