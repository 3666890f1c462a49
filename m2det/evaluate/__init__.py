"""From a trained network to boxes, metrics and pictures: `postprocess`, `coco_metrics`."""

from m2det.evaluate.detect import postprocess
from m2det.evaluate.metrics import coco_metrics

__all__ = ["coco_metrics", "postprocess"]
