"""Inference and evaluation: `postprocess` for detections, `coco_metrics` for AP and AR."""

from m2det.evaluate.metrics import coco_metrics
from m2det.evaluate.postprocess import postprocess

__all__ = ["coco_metrics", "postprocess"]
