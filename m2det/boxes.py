"""Coordinate formats, overlap, and the encoding of boxes against priors (SSD, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[...,4] -> [...,4]."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def iou_xyxy(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of [...,N,4] with [...,M,4] -> [...,N,M]; two empty boxes give 0."""
    # one coordinate at a time: pairs and quads as the innermost axis take a CPU four times as long
    x1, y1, x2, y2 = boxes1[..., :, None, :].unbind(-1)
    left, top, right, bottom = (side.contiguous() for side in boxes2[..., None, :, :].unbind(-1))
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
    overlap = width * height
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - overlap
    return overlap / union.clamp_(min=torch.finfo(union.dtype).tiny)


def encode_xyxy_to_offsets(boxes: Tensor, priors: Tensor) -> Tensor:
    """xyxy [...,P,4] against cxcywh priors [P,4] -> offsets [...,P,4] with variances 0.1 and 0.2.

    Sizes are kept above zero, so that rows which only pad a batch stay finite and a mask can drop them.
    """
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)
    offsets = (centre - priors[..., :2]) / (priors[..., 2:] * CENTRE_VARIANCE)
    scales = torch.log(size / priors[..., 2:]) / SIZE_VARIANCE
    return torch.cat([offsets, scales], dim=-1)


def decode_offsets_to_xyxy(offsets: Tensor, priors: Tensor) -> Tensor:
    """The inverse: offsets [...,P,4], cxcywh priors [P,4] -> xyxy [...,P,4]."""
    centre = priors[..., :2] + offsets[..., :2] * CENTRE_VARIANCE * priors[..., 2:]
    size = priors[..., 2:] * torch.exp(offsets[..., 2:] * SIZE_VARIANCE)
    return cxcywh_to_xyxy(torch.cat([centre, size], dim=-1))
