"""Convert one image's raw network outputs to detections."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from m2det.boxes import decode_offsets_to_xyxy
from m2det.config import EvaluateParams
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
    """Convert one image's raw outputs to detections. The defaults are the original's (test.py with soft_nms).

    Args:
        loc: [P,4] boxes encoded against the priors.
        conf: [P,C+1] logits, background first.
        priors: [P,4] cxcywh in [0,1].
        size: (width, height) of the image in pixels.
        nms: NMS within each class: hard, or soft-NMS with linear or gaussian decay (sigma 0.5, pruned at 0.001).
        score_threshold: Candidates for NMS score more than this; scores that soft-NMS lowers may fall below.
        nms_iou: IoU threshold of NMS.
        per_class: Maximum number of detections of a class, in NMS's order of selection.
        per_image: Maximum number of detections of the image, best first; 0 keeps all, class by class.

    Returns:
        float32 [K,6]: xyxy in pixels (not clipped to the image), score, label from 1.
    """
    loc, conf, priors = (torch.as_tensor(x).float() for x in (loc, conf, priors))
    scores = conf.softmax(-1).numpy()
    width, height = size
    boxes = (decode_offsets_to_xyxy(loc, priors) * torch.tensor([width, height] * 2)).numpy()
    per_label = [np.empty((0, 6), np.float32)]
    for label in range(1, scores.shape[1]):
        candidates = np.flatnonzero(scores[:, label] > score_threshold)
        if not len(candidates):
            continue
        rows = np.column_stack([boxes[candidates], scores[candidates, label]]).astype(np.float32)
        if nms == "hard":
            rows = rows[hard_nms(rows, nms_iou, per_class)]
        else:
            rows = soft_nms(rows, nms, iou_threshold=nms_iou, limit=per_class)
        per_label.append(np.column_stack([rows, np.full(len(rows), label, np.float32)]))
    detections = np.concatenate(per_label)
    if per_image:
        detections = detections[np.argsort(-detections[:, 4], kind="stable")[:per_image]]
    return detections


def viewing_params(min_score: float) -> EvaluateParams:
    """Return settings of `postprocess` for pictures, with detections of at least `min_score`.

    Hard NMS draws each object once; soft-NMS, which evaluation uses, keeps near-duplicates with lower scores.
    """
    return EvaluateParams(
        batch_size=1,
        nms="hard",
        score_threshold=min(0.05, min_score),
        nms_iou=0.45,
        per_class=50,
        per_image=100,
        scorer="auto",
    )
