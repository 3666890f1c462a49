"""MultiBox loss (SSD, section 2.2) on fixed shapes.

The original loops over images, sorts on the CPU and selects with boolean masks, whose sizes only the device
knows: each one stalls an accelerator. Here every tensor's shape follows from the batch's, nothing waits for the
device, and the numbers are the original's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2det.boxes import cxcywh_to_xyxy, encode_xyxy_to_offsets, iou_xyxy


def match(priors_xyxy: Tensor, boxes: Tensor, labels: Tensor, overlap: float) -> tuple[Tensor, Tensor]:
    """Give every prior a ground truth.

    priors_xyxy [P,4]; boxes [B,G,4] xyxy padded with zeros; labels [B,G], 0 = padding.
    Returns boxes [B,P,4] and labels [B,P], 0 where the best overlap is below `overlap`. Each ground truth keeps
    the prior that it overlaps most, whatever the overlap; of several claiming one prior the last has it.
    """
    valid = labels > 0
    iou = iou_xyxy(boxes, priors_xyxy).masked_fill_(~valid[:, :, None], -1.0)
    best_overlap, best_truth = iou.max(dim=1)
    best_prior = iou.argmax(dim=2)
    # The last ground truth of those with the same best prior; all write the same number, so their order is nothing.
    turn = torch.arange(1, boxes.shape[1] + 1, device=boxes.device) * valid
    last = ((best_prior[:, :, None] == best_prior[:, None, :]) * turn[:, None, :]).amax(dim=2)
    claimed_by = torch.zeros_like(best_truth).scatter_(1, best_prior, last)  # 0: by none, else 1 + the ground truth
    best_truth = torch.where(claimed_by > 0, claimed_by - 1, best_truth)
    positive = (claimed_by > 0) | (best_overlap >= overlap)
    matched_boxes = boxes.gather(1, best_truth[..., None].expand(-1, -1, 4))
    matched_labels = labels.gather(1, best_truth) * positive
    return matched_boxes, matched_labels


def hardest_negatives(background_loss: Tensor, positive: Tensor, per_positive: int) -> Tensor:
    """bool [B,P]: per image the `per_positive` x positives priors that are least sure of background.

    Ties go to the lower index, as in a stable sort; the original's never takes the last prior of all.
    """
    wanted = (per_positive * positive.sum(1, keepdim=True)).clamp(max=positive.shape[1] - 1)
    order = background_loss.masked_fill(positive, 0.0).sort(dim=1, descending=True, stable=True).indices
    ranks = torch.arange(positive.shape[1], device=order.device).expand_as(order)
    # one sort and a scatter: a second sort of integers would run on the host of an NPU
    rank = torch.zeros_like(order).scatter_(1, order, ranks)
    return rank < wanted


@dataclass(frozen=True)
class Targets:
    """What the network should have said: loc float32 [B,P,4] encoded, labels int64 [B,P], 0 = background."""

    loc: Tensor
    labels: Tensor

    @property
    def positives(self) -> Tensor:
        """Their number in the batch, int64 scalar."""
        return (self.labels > 0).sum()


class MultiBoxLoss(nn.Module):
    """Smooth L1 over positives, cross entropy over positives and their hardest negatives.

    overlap: IoU from which a prior is positive; negatives_per_positive: hard negatives mined for each;
    label_smoothing: share of each label's probability spread over all classes (Szegedy et al. 2016, section 7).
    """

    def __init__(self, overlap: float = 0.5, negatives_per_positive: int = 3, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.overlap = overlap
        self.negatives_per_positive = negatives_per_positive

    def forward(self, outputs: dict[str, Tensor], priors: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """outputs `loc` [B,P,4], `conf` [B,P,C+1]; priors [P,4] cxcywh; boxes [B,G,4] xyxy in [0,1]; labels [B,G].

        Returns float32 scalars `loc` and `conf`, each divided by the number of positives in the batch (>= 1).
        """
        targets = self.targets(priors, boxes, labels)
        return self.compare(outputs, targets, targets.positives.clamp(min=1))

    @torch.no_grad()
    def targets(self, priors: Tensor, boxes: Tensor, labels: Tensor) -> Targets:
        """Priors and ground truth as in forward."""
        target_boxes, target_labels = match(cxcywh_to_xyxy(priors), boxes, labels, self.overlap)
        return Targets(encode_xyxy_to_offsets(target_boxes, priors), target_labels)

    def compare(self, outputs: dict[str, Tensor], targets: Targets, divisor: Tensor) -> dict[str, Tensor]:
        """The two losses, divided by `divisor` (a scalar) instead of the batch's own number of positives."""
        loc, conf = outputs["loc"].float(), outputs["conf"].float()
        positive = targets.labels > 0
        cross_entropy = F.cross_entropy(
            conf.flatten(0, 1), targets.labels.flatten(), reduction="none", label_smoothing=self.label_smoothing
        )
        cross_entropy = cross_entropy.view_as(targets.labels)
        negative = hardest_negatives(cross_entropy.detach(), positive, self.negatives_per_positive)
        smooth_l1 = F.smooth_l1_loss(loc, targets.loc, reduction="none").sum(-1)
        return {
            "loc": torch.where(positive, smooth_l1, 0.0).sum() / divisor,
            "conf": torch.where(positive | negative, cross_entropy, 0.0).sum() / divisor,
        }
