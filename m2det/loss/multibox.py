"""The original's objective: the MultiBox loss (SSD, Liu et al. 2016, section 2.2) on fixed shapes.

The original loops over images, sorts on the CPU and selects with boolean masks, whose sizes only the device knows: each
of these stalls an accelerator. Here every tensor's shape follows from the batch's shape, no operator waits for the
device, and the numbers are the original's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from m2det.boxes import cxcywh_to_xyxy, encode_xyxy_to_offsets, iou_xyxy
from m2det.loss.mining import hard_negative_mining
from m2det.loss.objective import MAX_ELEMENTS, Objective


def match(priors_xyxy: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Assign a ground-truth box to every prior.

    Each ground truth keeps the prior with which its IoU is highest, whatever that IoU is; where several ground truths
    claim one prior, the last of them gets it. Memory does not grow with the number of boxes beyond `MAX_ELEMENTS`.

    Args:
        priors_xyxy: float32 [P,4] xyxy in [0,1].
        boxes: float32 [B,G,4] xyxy in [0,1], padded with zeros.
        labels: int64 [B,G], 0 = padding.
        iou_threshold: IoU from which a prior is positive.

    Returns:
        Matched boxes float32 [B,P,4] xyxy, and labels int64 [B,P], 0 (background) where the best IoU is too low.
    """
    images, count = labels.shape
    objects = boxes * (labels > 0)[..., None]  # the IoU of padding is 0, whatever stands there
    best_iou = torch.zeros(images, len(priors_xyxy), device=boxes.device)
    best_truth = torch.zeros_like(best_iou, dtype=torch.int64)
    numbers = torch.arange(1, count + 1, device=boxes.device) * (labels > 0)  # 1 + the ground truth; 0: padding
    claimed_by = torch.zeros_like(best_truth)  # such a number; 0: unclaimed
    size = portion_size(images, len(priors_xyxy))
    for start in range(0, count, size):
        portion = slice(start, start + size)
        iou = iou_xyxy(objects[:, portion], priors_xyxy)
        portion_iou, portion_truth = iou.max(dim=1)
        best_truth = torch.where(portion_iou > best_iou, portion_truth + start, best_truth)  # of equals the first
        best_iou = torch.maximum(best_iou, portion_iou)
        best_prior = iou.argmax(dim=2)
        number = numbers[:, portion]
        # of the last ground truth with the same best prior: all of them scatter the same number, in whatever order
        last = ((best_prior[:, :, None] == best_prior[:, None, :]) * number[:, None, :]).amax(dim=2)
        claimed_by.scatter_(1, best_prior, torch.maximum(last, claimed_by.gather(1, best_prior)))
    best_truth = torch.where(claimed_by > 0, claimed_by - 1, best_truth)
    positive = (claimed_by > 0) | (best_iou >= iou_threshold)
    matched_boxes = boxes.gather(1, best_truth[..., None].expand(-1, -1, 4))
    matched_labels = labels.gather(1, best_truth) * positive
    return matched_boxes, matched_labels


def portion_size(images: int, priors: int) -> int:
    """Return how many boxes of each image to compare with all priors, and with each other, at once."""
    return max(1, min(priors, MAX_ELEMENTS // max(1, images * priors)))


@dataclass(frozen=True)
class MatchedPriors:
    """Regression targets loc float32 [B,P,4] (encoded offsets) and labels int64 [B,P], 0 = background."""

    loc: Tensor
    labels: Tensor

    @property
    def num_positives(self) -> Tensor:
        """Positive priors of the batch, int64 scalar."""
        return (self.labels > 0).sum()


class MultiBoxLoss(Objective[MatchedPriors]):
    """Smooth L1 over positives, and cross entropy over positives and their hard negatives."""

    def __init__(self, overlap: float = 0.5, negatives_per_positive: int = 3, label_smoothing: float = 0.0) -> None:
        """Choose the options.

        Args:
            overlap: IoU from which a prior is positive.
            negatives_per_positive: hard negatives mined for each positive.
            label_smoothing: share of each label's probability spread over all classes (Szegedy et al. 2016, section 7).
        """
        super().__init__()
        self.label_smoothing = label_smoothing
        self.iou_threshold = overlap
        self.neg_pos_ratio = negatives_per_positive

    @torch.no_grad()
    def targets(self, priors: Tensor, boxes: Tensor, labels: Tensor) -> MatchedPriors:
        """Return what the network should output, from priors, boxes and labels as forward takes them."""
        target_boxes, target_labels = match(cxcywh_to_xyxy(priors), boxes, labels, self.iou_threshold)
        return MatchedPriors(encode_xyxy_to_offsets(target_boxes, priors), target_labels)

    def compute(self, outputs: dict[str, Tensor], targets: MatchedPriors, normalizer: Tensor) -> dict[str, Tensor]:
        """Return both losses as forward does, divided by the scalar `normalizer` instead."""
        loc, conf = outputs["loc"].float(), outputs["conf"].float()
        positive = targets.labels > 0
        cross_entropy = F.cross_entropy(
            conf.flatten(0, 1), targets.labels.flatten(), reduction="none", label_smoothing=self.label_smoothing
        )
        cross_entropy = cross_entropy.view_as(targets.labels)
        negative = hard_negative_mining(cross_entropy.detach(), positive, self.neg_pos_ratio)
        smooth_l1 = F.smooth_l1_loss(loc, targets.loc, reduction="none").sum(-1)
        return {
            "loc": torch.where(positive, smooth_l1, 0.0).sum() / normalizer,
            "conf": torch.where(positive | negative, cross_entropy, 0.0).sum() / normalizer,
        }
