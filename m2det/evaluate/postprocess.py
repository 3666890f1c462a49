"""From one image's raw network outputs to detections."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from m2det.boxes import decode_offsets_to_xyxy
from m2det.ops import nms as hard_nms
from m2det.ops import soft_nms


def postprocess(
    loc: Tensor | ArrayLike,
    conf: Tensor | ArrayLike,
    priors: Tensor | ArrayLike,
    size: tuple[int, int],
    nms: str = "linear",
    score_threshold: float = 0.1,
    nms_iou: float = 0.3,
    per_class: int = 50,
    per_image: int = 0,
) -> NDArray[np.float32]:
    """One image's raw outputs -> detections, best first where per_image limits them, else class by class.

    loc [P,4] encoded; conf [P,C+1] logits, background first; priors [P,4] cxcywh; size = (width, height) in
    pixels. Candidates score more than score_threshold; NMS per class (hard, linear, gaussian) at nms_iou, the
    soft ones with sigma 0.5 and pruned at 0.001; then the first per_class in order of selection, then the best
    per_image (0 keeps all). Returns float32 [K,6]: xyxy pixels, not clipped, score, label from 1. The defaults
    are the original's (test.py with soft_nms).
    """
    loc, conf, priors = (torch.as_tensor(x).float() for x in (loc, conf, priors))
    scores = conf.softmax(-1).numpy()
    width, height = size
    boxes = (decode_offsets_to_xyxy(loc, priors) * torch.tensor([width, height] * 2)).numpy()
    found = [np.empty((0, 6), np.float32)]
    for label in range(1, scores.shape[1]):
        candidates = np.flatnonzero(scores[:, label] > score_threshold)
        if not len(candidates):
            continue
        rows = np.column_stack([boxes[candidates], scores[candidates, label]]).astype(np.float32)
        if nms == "hard":
            rows = rows[hard_nms(rows, nms_iou, per_class)]
        else:
            rows = soft_nms(rows, nms, iou_threshold=nms_iou, limit=per_class)
        found.append(np.column_stack([rows, np.full(len(rows), label, np.float32)]))
    detections = np.concatenate(found)
    if per_image:
        detections = detections[np.argsort(-detections[:, 4], kind="stable")[:per_image]]
    return detections
