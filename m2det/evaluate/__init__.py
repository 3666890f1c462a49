"""From a trained network to boxes, metrics and pictures: `postprocess`, `coco_metrics`."""

from m2det.evaluate.metrics import coco_metrics
from m2det.evaluate.postprocess import postprocess

__all__ = ["coco_metrics", "postprocess"]
