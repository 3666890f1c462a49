"""Convert one image's raw network outputs to detections."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from m2det.config import EvaluateParams
from m2det.evaluate.candidates import select_candidates
from m2det.ops import nms_by_class, soft_nms_by_class


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
    loc, conf, priors = (torch.as_tensor(x) for x in (loc, conf, priors))
    candidates = select_candidates(loc[None], conf[None], priors.float(), score_threshold)[0]
    return suppress(candidates, size, nms, nms_iou, per_class, per_image)


def suppress(
    candidates: NDArray[np.float32], size: tuple[int, int], nms: str, nms_iou: float, per_class: int, per_image: int
) -> NDArray[np.float32]:
    """Apply non-maximum suppression to one image's candidates, and keep the best.

    The compiled loops run without Python's global lock, so that threads do this while the device computes.

    Args:
        candidates: float32 [N,6]: xyxy in [0,1], score, label from 1; those of a label by prior, as the original has
            them: the order decides ties.
        size, nms, nms_iou, per_class, per_image: As for postprocess.

    Returns:
        float32 [K,6] as postprocess.
    """
    width, height = size
    # labels as int16, which NumPy sorts in one pass
    rows = candidates.take(np.argsort(candidates[:, 5].astype(np.int16), kind="stable"), axis=0)
    with np.errstate(over="ignore"):  # an untrained network's boxes
        rows[:, :4] *= np.array([width, height, width, height], np.float32)
    dets, ends = np.ascontiguousarray(rows[:, :5]), np.flatnonzero(np.diff(rows[:, 5], append=np.inf)) + 1
    if nms == "hard":
        detections = rows[nms_by_class(dets, ends, nms_iou, per_class)]
    else:
        classes, dets = soft_nms_by_class(dets, ends, nms, iou_threshold=nms_iou, limit=per_class)
        detections = np.column_stack([dets, rows[ends - 1, 5][classes]])
    if per_image:
        detections = detections[np.argsort(-detections[:, 4], kind="stable")[:per_image]]
    return detections


def viewing_params(min_score: float) -> EvaluateParams:
    """Return settings of `postprocess` for pictures, with detections of at least `min_score`.

    Hard NMS draws each object once; soft-NMS, which evaluation uses, keeps near-duplicates with lower scores.
    """
    return EvaluateParams(
        split="val",
        batch_size=1,
        nms="hard",
        score_threshold=min(0.05, min_score),
        nms_iou=0.45,
        per_class=100,
        per_image=100,
        scorer="auto",
    )
