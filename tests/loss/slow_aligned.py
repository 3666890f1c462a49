"""The aligned objective as plainly as can be: one image, one box, one prior at a time. Written from its description."""

import math

import numpy as np
import torch

from m2det.boxes import cxcywh_to_xyxy, decode_offsets_to_xyxy
from m2det.loss import aligned


def area(x1, y1, x2, y2):
    return (x2 - x1) * (y2 - y1)


def iou_of(a, b):
    """IoU of two boxes, each four float32 numbers xyxy."""
    width = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]))
    height = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]))
    union = area(*a) + area(*b) - width * height
    return width * height / union if union > 0 else np.float32(0)


def giou_of(a, b):
    """Generalized IoU of two boxes, each a tensor [4] xyxy, with its gradient."""
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    shared = sides[0] * sides[1]
    union = area(*a) + area(*b) - shared
    hull = area(*torch.minimum(a[:2], b[:2]), *torch.maximum(a[2:], b[2:]))
    return shared / union - (hull - union) / hull


def positives_of_image(priors_xyxy, predicted, probabilities, boxes, labels):
    """Map each positive prior to the number of its box and its soft label, and count what the boxes ask for."""
    wanted = 0
    claims = {}  # prior -> (IoU, box, alignment) of the box that it overlaps most
    for number, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        if label == 0:
            continue
        ious = [iou_of(box, prior) for prior in priors_xyxy]
        nearest = torch.tensor(ious).topk(aligned.MAX_CANDIDATES).indices.tolist()  # equal ones in whatever order
        enough = min(aligned.MIN_IOU, ious[nearest[0]] / 2)
        candidates = [prior for prior in nearest if ious[prior] > enough]
        scored = []
        for prior in candidates:
            iou = iou_of(predicted[prior], box)
            scored.append((math.sqrt(probabilities[prior, label]) * iou**6, iou, prior))
        scored.sort(key=lambda entry: -entry[0])
        wanted += min(len(candidates), aligned.POSITIVES)
        for alignment, iou, prior in scored[: aligned.POSITIVES]:
            if prior not in claims or iou > claims[prior][0]:
                claims[prior] = (iou, number, alignment)
    found = {}
    for prior, (_, number, alignment) in claims.items():
        own = [(a, i) for i, n, a in claims.values() if n == number]
        highest = max(a for a, _ in own)
        soft = alignment / highest * max(i for _, i in own) if highest > 0 else 0.0
        found[prior] = (number, float(soft))
    return found, wanted


def slow_aligned(outputs, priors, boxes, labels, normalizer=None):
    """As AlignedLoss: scalars `loc` and `conf`; divided by `normalizer`, or by the number of positives asked for."""
    log_p = outputs["conf"].float().log_softmax(-1)
    total, loc, conf = 0, torch.zeros(()), torch.zeros(())
    for image in range(len(labels)):
        predicted = decode_offsets_to_xyxy(outputs["loc"][image].float(), priors)
        tensors = cxcywh_to_xyxy(priors), predicted.detach(), log_p[image].detach().exp(), boxes[image], labels[image]
        found, wanted = positives_of_image(*(tensor.numpy() for tensor in tensors))
        total += wanted
        for prior, (number, soft) in found.items():
            label = labels[image, number]
            loc = loc + aligned.BOX_WEIGHT * (1 - giou_of(predicted[prior], boxes[image, number]))
            conf = conf - soft * log_p[image, prior, label] - (1 - soft) * log_p[image, prior, 0]
        others = [prior for prior in range(len(priors)) if prior not in found]
        others.sort(key=lambda prior: log_p[image, prior, 0].item())
        for prior in others[: min(3 * len(found), len(priors) - 1)]:
            conf = conf - log_p[image, prior, 0]
    normalizer = max(total, 1) if normalizer is None else normalizer
    return {"loc": loc / normalizer, "conf": conf / normalizer}
