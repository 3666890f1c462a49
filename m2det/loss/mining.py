"""Hard negative mining (SSD, Liu et al. 2016, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def hard_negative_mining(background_loss: Tensor, positive: Tensor, neg_pos_ratio: int) -> Tensor:
    """Select the negatives with the highest loss.

    Ties go to the lower index, as in a stable sort. As in the original, at most P - 1 negatives are taken.

    Args:
        background_loss: float32 [B,P].
        positive: bool [B,P].
        neg_pos_ratio: negatives per positive of the same image.

    Returns:
        bool [B,P], true for the selected negatives.
    """
    num_negatives = (neg_pos_ratio * positive.sum(1, keepdim=True)).clamp(max=positive.shape[1] - 1)
    order = background_loss.masked_fill(positive, 0.0).sort(dim=1, descending=True, stable=True).indices
    ranks = torch.arange(positive.shape[1], device=order.device).expand_as(order)
    # one sort and a scatter: a second sort of integers would run on the host of an NPU
    rank = torch.zeros_like(order).scatter_(1, order, ranks)
    return rank < num_negatives
