"""Select a batch's candidates for NMS on the device: few of its outputs are worth a copy to the host."""

from __future__ import annotations

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
    scores = conf.float().softmax(-1)[..., 1:]
    # priors first: one reduction leaves few rows, in which to look for classes
    image, prior = (scores.amax(-1) > score_threshold).nonzero(as_tuple=True)
    scores = scores[image, prior]
    row, label = (scores > score_threshold).nonzero(as_tuple=True)
    boxes = decode_offsets_to_xyxy(loc[image, prior].float(), priors[prior])[row]
    columns = (boxes, scores[row, label, None], label[:, None] + 1.0)
    candidates: NDArray[np.float32] = torch.cat(columns, 1).cpu().numpy()
    ends = np.searchsorted(image[row].cpu().numpy(), np.arange(1, len(loc)))
    return np.split(candidates, ends)
