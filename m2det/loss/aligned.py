"""A second objective: task-aligned assignment, GIoU loss, soft labels (TOOD, Feng et al. 2021, section 3.3).

Each box takes the priors whose prediction is already the best for it, in class and in place, instead of those that lie
nearest to it; and a prior's class probability shall say how well its box fits. Candidates are chosen before the forward
pass by the priors alone, so that all that follows it works on some priors per box instead of on all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from m2det.boxes import (
    SIZE_VARIANCE,
    cxcywh_to_xyxy,
    decode_offsets_to_xyxy,
    giou_of_pairs_xyxy,
    iou_of_pairs_xyxy,
    iou_xyxy,
)
from m2det.loss.mining import hard_negative_mining
from m2det.loss.objective import MAX_ELEMENTS, Objective

MAX_CANDIDATES = 64  # priors per box that its positives are chosen from
MIN_IOU = 0.2  # of a candidate with its box
POSITIVES = 10  # per box (TOOD takes 13, YOLOv8 10)
CLASS_POWER, IOU_POWER = 0.5, 6.0  # of the alignment (YOLOv8's; TOOD: 1 and 6)
MAX_SIZE_OFFSET = math.log(1000 / 16) / SIZE_VARIANCE  # a predicted side is at most 62 times the prior's
BOX_WEIGHT = 4.0  # of the GIoU loss beside the class loss


@dataclass(frozen=True)
class Candidates:
    """The priors that each box may take.

    Attributes:
        priors: float32 [P,4] cxcywh.
        boxes: float32 [B,G,4] xyxy.
        labels: int64 [B,G], 0 = padding.
        index: int64 [B,G,K], rows of `priors`, by falling IoU with the box.
        valid: bool [B,G,K], false for those that do not overlap the box enough and for padding.
    """

    priors: Tensor
    boxes: Tensor
    labels: Tensor
    index: Tensor
    valid: Tensor

    @property
    def num_positives(self) -> Tensor:
        """Positives of all boxes, int64 scalar; a prior that two boxes want counts twice."""
        return self.valid.sum(2).clamp(max=POSITIVES).sum()


@dataclass(frozen=True)
class Assignment:
    """The priors that each box has taken.

    Attributes:
        index: int64 [B,G,N], rows of the priors.
        positive: bool [B,G,N], whether the box has this prior; no prior is positive in two places of an image.
        soft_label: float32 [B,G,N], what its class's probability shall be; 0 where not positive.
    """

    index: Tensor
    positive: Tensor
    soft_label: Tensor


class AlignedLoss(Objective[Candidates]):
    """GIoU loss over positives; cross entropy with soft labels over positives and their hard negatives."""

    def __init__(self, negatives_per_positive: int = 3) -> None:
        super().__init__()
        self.neg_pos_ratio = negatives_per_positive

    @torch.no_grad()
    def targets(self, priors: Tensor, boxes: Tensor, labels: Tensor) -> Candidates:
        """Return each box's candidates, from priors, boxes and labels as forward takes them."""
        iou, index = nearest_priors(cxcywh_to_xyxy(priors), boxes)
        # a box that no prior fits (a small object) takes the best there are, all that cover it as well
        enough = (iou[..., :1] / 2).clamp(max=MIN_IOU)
        return Candidates(priors, boxes, labels, index, (iou > enough) & (labels > 0)[..., None])

    def compute(self, outputs: dict[str, Tensor], targets: Candidates, normalizer: Tensor) -> dict[str, Tensor]:
        """Return both losses as forward does, divided by the scalar `normalizer` instead."""
        loc, log_probability = outputs["loc"].float(), outputs["conf"].float().log_softmax(-1)
        assigned = assign(loc.detach(), log_probability.detach(), targets)
        giou = giou_of_pairs_xyxy(predicted_xyxy(loc, assigned.index, targets.priors), targets.boxes[:, :, None])
        label, soft_label = of_priors(assigned, targets.labels, len(targets.priors))
        # of the label and of the background; the label of a negative is the background
        both = log_probability.gather(2, torch.stack([label, torch.zeros_like(label)], 2))
        cross_entropy = -(soft_label * both[..., 0] + (1 - soft_label) * both[..., 1])
        positive = label > 0
        negative = hard_negative_mining(cross_entropy.detach(), positive, self.neg_pos_ratio)
        return {
            "loc": BOX_WEIGHT * torch.where(assigned.positive, 1 - giou, 0.0).sum() / normalizer,
            "conf": torch.where(positive | negative, cross_entropy, 0.0).sum() / normalizer,
        }


def nearest_priors(priors_xyxy: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the IoU of each box with the priors that overlap it most, float32 [B,G,K], and their rows, int64 [B,G,K].

    Which of several priors with the last place's IoU is among them is torch's choice.

    Args:
        priors_xyxy: float32 [P,4].
        boxes: float32 [B,G,4] xyxy.
    """
    count = min(MAX_CANDIDATES, len(priors_xyxy))
    portions = boxes.split(max(1, MAX_ELEMENTS // max(1, len(boxes) * len(priors_xyxy))), dim=1)
    best = [iou_xyxy(portion, priors_xyxy).topk(count, dim=2) for portion in portions]
    return torch.cat([iou for iou, _ in best], 1), torch.cat([index for _, index in best], 1)


def predicted_xyxy(loc: Tensor, index: Tensor, priors: Tensor) -> Tensor:
    """Return the boxes [B,G,N,4] xyxy that `loc` [B,P,4] predicts at the priors `index` [B,G,N] of `priors` [P,4].

    Sizes are limited, since areas that overflow would make a gradient of 0 times infinity: NaN, at a finite loss.
    """
    rows = index.flatten(1)
    centre, size = loc.gather(1, rows[..., None].expand(-1, -1, 4)).split(2, dim=2)
    offsets = torch.cat([centre, size.clamp(max=MAX_SIZE_OFFSET)], dim=2)
    return decode_offsets_to_xyxy(offsets, priors[rows]).unflatten(1, index.shape[1:])


@torch.no_grad()
def assign(loc: Tensor, log_probability: Tensor, targets: Candidates) -> Assignment:
    """Give each box the candidates with the highest alignment, p(class)^0.5 IoU^6 (TOOD, equation 1).

    A prior that several boxes choose goes to the one that its predicted box overlaps most, of equals to the first. Soft
    labels are the alignment over the box's highest alignment, times the box's highest IoU (TOOD, section 3.3.1).

    Args:
        loc: float32 [B,P,4], the predicted offsets.
        log_probability: float32 [B,P,C+1], background first.
        targets: the candidates.
    """
    candidates, classes = targets.index, log_probability.shape[2]
    iou = iou_of_pairs_xyxy(predicted_xyxy(loc, candidates, targets.priors), targets.boxes[:, :, None])
    of_class = (candidates * classes + targets.labels[..., None]).flatten(1)
    log_p = log_probability.flatten(1).gather(1, of_class).view_as(iou)
    alignment = (CLASS_POWER * log_p).exp() * iou.pow(IOU_POWER)
    # stable, since alignments are equal where no predicted box overlaps: then the prior with the higher IoU comes first
    alignment, place = alignment.masked_fill(~targets.valid, -1.0).sort(dim=2, descending=True, stable=True)
    alignment, place = alignment[..., :POSITIVES], place[..., :POSITIVES]
    index, iou = candidates.gather(2, place), iou.gather(2, place)
    # not alignment >= 0, by which a NaN would be left out of the loss, where nobody would see it
    positive = keep_best_of_each_prior(index, iou, targets.valid.gather(2, place))
    alignment, iou = (torch.where(positive, x, 0.0) for x in (alignment, iou))
    highest = alignment.amax(2, keepdim=True).clamp(min=torch.finfo(iou.dtype).tiny)
    return Assignment(index, positive, alignment / highest * iou.amax(2, keepdim=True))


def keep_best_of_each_prior(index: Tensor, iou: Tensor, chosen: Tensor) -> Tensor:
    """Return where a chosen prior has its highest IoU in the image, of equals the first place: bool [B,G,N].

    Args:
        index: int64 [B,G,N], the priors.
        iou: float32 [B,G,N].
        chosen: bool [B,G,N]; other places do not take part.
    """
    prior, iou = index.flatten(1), torch.where(chosen, iou, -1.0).flatten(1)
    place = torch.arange(prior.shape[1], device=prior.device)
    kept = []
    # every place against all others, since a scatter of several values to one place keeps an arbitrary one
    for rows in place.split(max(1, MAX_ELEMENTS // max(1, prior.numel()))):
        same = prior[:, rows, None] == prior[:, None, :]
        own, other = iou[:, rows, None], iou[:, None, :]
        before = (other > own) | ((other == own) & (place < rows[:, None]))
        kept.append(~(same & before).any(2))
    return torch.cat(kept, 1).view_as(chosen) & chosen


def of_priors(assigned: Assignment, labels: Tensor, num_priors: int) -> tuple[Tensor, Tensor]:
    """Return each prior's label, int64 [B,P] with 0 = background, and soft label, float32 [B,P].

    Args:
        assigned: the priors of each box.
        labels: int64 [B,G], of the boxes.
        num_priors: P.
    """
    # what is not positive goes to one more prior, which is dropped: there every value is 0
    index = torch.where(assigned.positive, assigned.index, num_priors).flatten(1)
    label = (labels[..., None] * assigned.positive).flatten(1)
    rows = len(labels), num_priors + 1
    return (
        label.new_zeros(rows).scatter_(1, index, label)[:, :-1],
        assigned.soft_label.new_zeros(rows).scatter_(1, index, assigned.soft_label.flatten(1))[:, :-1],
    )
