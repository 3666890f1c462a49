"""Box formats, IoU, and the encoding of boxes against priors (SSD, Liu et al. 2016, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert [...,4] cxcywh to [...,4] xyxy."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def iou_xyxy(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the IoU of [...,N,4] with [...,M,4] xyxy boxes as [...,N,M]; the IoU of two empty boxes is 0."""
    # one coordinate at a time: pairs and quads as the innermost axis take a CPU four times as long
    x1, y1, x2, y2 = boxes1[..., :, None, :].unbind(-1)
    left, top, right, bottom = (side.contiguous() for side in boxes2[..., None, :, :].unbind(-1))
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
    intersection = width * height
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - intersection
    return intersection / union.clamp_(min=torch.finfo(union.dtype).tiny)


def iou_of_pairs_xyxy(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the IoU of each box of [...,4] xyxy with its counterpart in [...,4] as [...], 0 for two empty boxes."""
    intersection, union, _ = _areas_of_pairs(boxes1, boxes2)
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def giou_of_pairs_xyxy(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the generalized IoU (Rezatofighi et al. 2019, algorithm 1) as iou_of_pairs_xyxy does; -1 to 1."""
    intersection, union, hull = _areas_of_pairs(boxes1, boxes2)
    tiny = torch.finfo(union.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _areas_of_pairs(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the areas of intersection, union and the smallest enclosing box."""
    x1, y1, x2, y2 = boxes1.unbind(-1)
    left, top, right, bottom = boxes2.unbind(-1)
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
    intersection = width * height
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - intersection
    hull = (torch.maximum(x2, right) - torch.minimum(x1, left)) * (torch.maximum(y2, bottom) - torch.minimum(y1, top))
    return intersection, union, hull


def encode_xyxy_to_offsets(boxes: Tensor, priors: Tensor) -> Tensor:
    """Encode xyxy boxes [...,P,4] against cxcywh priors [P,4] as offsets [...,P,4] with variances 0.1 and 0.2.

    Box sizes are clamped above zero, so that padding rows stay finite and a mask can drop them.
    """
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)
    offsets = (centre - priors[..., :2]) / (priors[..., 2:] * CENTRE_VARIANCE)
    scales = torch.log(size / priors[..., 2:]) / SIZE_VARIANCE
    return torch.cat([offsets, scales], dim=-1)


def decode_offsets_to_xyxy(offsets: Tensor, priors: Tensor) -> Tensor:
    """Decode offsets [...,P,4] against cxcywh priors [P,4] to xyxy boxes [...,P,4]; undoes encode_xyxy_to_offsets."""
    centre = priors[..., :2] + offsets[..., :2] * CENTRE_VARIANCE * priors[..., 2:]
    size = priors[..., 2:] * torch.exp(offsets[..., 2:] * SIZE_VARIANCE)
    return cxcywh_to_xyxy(torch.cat([centre, size], dim=-1))
