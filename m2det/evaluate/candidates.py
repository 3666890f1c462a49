"""Select a batch's candidates for NMS on the device: few of its outputs are worth a copy to the host."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2det.boxes import decode_offsets_to_xyxy


def select_candidates(loc: Tensor, conf: Tensor, priors: Tensor, score_threshold: float) -> list[NDArray[np.float32]]:
    """Return what of a batch's raw outputs scores more than a threshold, on the host.

    Scores and boxes are computed in float32 on the device of the arguments; only boxes of candidates are decoded.

    Args:
        loc: [B,P,4] boxes encoded against the priors.
        conf: [B,P,C+1] logits, background first.
        priors: float32 [P,4] cxcywh in [0,1].
        score_threshold: Candidates score more than this.

    Returns:
        Per image float32 [N,6]: xyxy in [0,1] (not clipped), score, label from 1; by prior, then by label.
    """
    return candidates_of_scores(
        conf.float().softmax(-1),
        lambda image, prior: decode_offsets_to_xyxy(loc[image, prior].float(), priors[prior]),
        score_threshold,
    )


def candidates_of_scores(
    scores: Tensor, boxes_of: Callable[[Tensor, Tensor], Tensor], score_threshold: float
) -> list[NDArray[np.float32]]:
    """Return what scores more than a threshold, as select_candidates does.

    Args:
        scores: float32 [B,P,C+1], background first.
        boxes_of: Called with the indices of images and priors, [R] each, returns their boxes, float32 [R,4] xyxy in
            [0,1].
        score_threshold: Candidates score more than this.
    """
    count, scores = len(scores), scores[..., 1:]
    # priors first: one reduction leaves few rows, in which to look for classes
    image, prior = (scores.amax(-1) > score_threshold).nonzero(as_tuple=True)
    scores = scores[image, prior]
    row, label = (scores > score_threshold).nonzero(as_tuple=True)
    boxes = boxes_of(image, prior)[row]
    columns = (boxes, scores[row, label, None], label[:, None] + 1.0)
    candidates: NDArray[np.float32] = torch.cat(columns, 1).cpu().numpy()
    ends = np.searchsorted(image[row].cpu().numpy(), np.arange(1, count))
    return np.split(candidates, ends)
