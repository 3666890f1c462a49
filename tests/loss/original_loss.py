"""The original's way to the loss, for comparison of numbers and speed: loops over images and objects, boolean masks,
two sorts. Written from its description; SSD's loss in most ports looks so."""

import torch
import torch.nn.functional as F

from m2det.boxes import cxcywh_to_xyxy, encode_xyxy_to_offsets
from m2det.model import prior_boxes


def original_overlap(boxes, priors_xyxy):
    """Jaccard overlap of [G,4] with [P,4] -> [G,P], on pairs of coordinates."""
    low = torch.maximum(boxes[:, None, :2], priors_xyxy[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], priors_xyxy[None, :, 2:])
    sides = (high - low).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])) for b in (boxes, priors_xyxy)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def original_loss(outputs, priors, boxes, labels):
    """As MultiBoxLoss: scalars `loc` and `conf`; every row of boxes and labels is an object."""
    loc, conf = outputs["loc"], outputs["conf"]
    images, count, classes = conf.shape
    loc_target = torch.zeros_like(loc)
    conf_target = torch.zeros(images, count, dtype=torch.long, device=loc.device)
    for i in range(images):
        overlap = original_overlap(boxes[i], cxcywh_to_xyxy(priors))
        best_prior = overlap.argmax(1)
        best_overlap, best_truth = overlap.max(0)
        best_overlap.index_fill_(0, best_prior, 2.0)
        for j in range(len(best_prior)):
            best_truth[best_prior[j]] = j
        conf_target[i] = labels[i][best_truth] * (best_overlap >= 0.5)
        loc_target[i] = encode_xyxy_to_offsets(boxes[i][best_truth], priors)
    positive = conf_target > 0
    rows = conf.view(-1, classes)
    highest = rows.detach().max()
    hardness = (rows - highest).exp().sum(1).log() + highest - rows.gather(1, conf_target.view(-1, 1))[:, 0]
    hardness = hardness.detach().view(images, count).clone()
    hardness[positive] = 0
    rank = hardness.sort(1, descending=True)[1].sort(1)[1]
    negative = rank < (3 * positive.sum(1, keepdim=True)).clamp(max=count - 1)
    mined = positive | negative
    conf_loss = F.cross_entropy(conf[mined].view(-1, classes), conf_target[mined], reduction="sum")
    loc_loss = F.smooth_l1_loss(loc[positive], loc_target[positive], reduction="sum")
    number = positive.sum().item()
    return {"loc": loc_loss / number, "conf": conf_loss / number}


def material(device, images=16, objects=16):
    """Outputs with gradients, priors of 512 px, boxes and labels: what a step of M2Det512 on COCO has."""
    torch.manual_seed(0)
    priors = prior_boxes("m2det512-vgg16")
    corners = torch.rand(images, objects, 2) * 0.6
    boxes = torch.cat([corners, corners + torch.rand(images, objects, 2) * 0.38 + 0.02], -1)
    labels = torch.randint(1, 81, (images, objects))
    outputs = {"loc": torch.randn(images, len(priors), 4), "conf": torch.randn(images, len(priors), 81)}
    outputs = {name: value.to(device).requires_grad_() for name, value in outputs.items()}
    return outputs, priors.to(device), boxes.to(device), labels.to(device)
