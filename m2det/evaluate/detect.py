"""From the network's outputs to boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm import tqdm

from m2det.boxes import decode_offsets_to_xyxy
from m2det.config import EvaluateParams
from m2det.data.loader import PlainSamples, plain_loader
from m2det.data.store import PackedSplit
from m2det.device import normalise
from m2det.group import Group
from m2det.ops import nms as hard_nms
from m2det.ops import soft_nms


def postprocess(
    loc: Tensor | ArrayLike,
    conf: Tensor | ArrayLike,
    priors: Tensor | ArrayLike,
    size: tuple[int, int],
    nms: str = "linear",
    score_threshold: float = 0.1,
    nms_iou: float = 0.3,
    per_class: int = 50,
    per_image: int = 0,
) -> NDArray[np.float32]:
    """One image's raw outputs -> detections, best first where per_image limits them, else class by class.

    loc [P,4] encoded; conf [P,C+1] logits, background first; priors [P,4] cxcywh; size = (width, height) in
    pixels. Candidates score more than score_threshold; NMS per class (hard, linear, gaussian) at nms_iou, the
    soft ones with sigma 0.5 and pruned at 0.001; then the first per_class in order of selection, then the best
    per_image (0 keeps all). Returns float32 [K,6]: xyxy pixels, not clipped, score, label from 1. The defaults
    are the original's (test.py with soft_nms).
    """
    loc, conf, priors = (torch.as_tensor(x).float() for x in (loc, conf, priors))
    scores = conf.softmax(-1).numpy()
    width, height = size
    boxes = (decode_offsets_to_xyxy(loc, priors) * torch.tensor([width, height] * 2)).numpy()
    found = [np.empty((0, 6), np.float32)]
    for label in range(1, scores.shape[1]):
        candidates = np.flatnonzero(scores[:, label] > score_threshold)
        if not len(candidates):
            continue
        rows = np.column_stack([boxes[candidates], scores[candidates, label]]).astype(np.float32)
        if nms == "hard":
            rows = rows[hard_nms(rows, nms_iou, per_class)]
        else:
            rows = soft_nms(rows, nms, iou_threshold=nms_iou, limit=per_class)
        found.append(np.column_stack([rows, np.full(len(rows), label, np.float32)]))
    detections = np.concatenate(found)
    if per_image:
        detections = detections[np.argsort(-detections[:, 4], kind="stable")[:per_image]]
    return detections


@torch.inference_mode()
def detect_images(
    model: nn.Module,
    priors: Tensor,
    images: Tensor,
    sizes: list[tuple[int, int]],
    device: torch.device,
    settings: EvaluateParams,
) -> list[NDArray[np.float32]]:
    """images uint8 [B,3,S,S] BGR, resized from `sizes` (width, height) -> detections [K,6] per image, in float32."""
    outputs = model(normalise(images.to(device, non_blocking=True), device))
    loc, conf = outputs["loc"].cpu(), outputs["conf"].cpu()
    return [
        postprocess(
            loc[i],
            conf[i],
            priors,
            size,
            settings.nms,
            settings.score_threshold,
            settings.nms_iou,
            settings.per_class,
            settings.per_image,
        )
        for i, size in enumerate(sizes)
    ]


def coco_results_of_split(
    model: nn.Module,
    priors: Tensor,
    split: PackedSplit,
    size: int,
    device: torch.device,
    settings: EvaluateParams,
    part: tuple[int, int] = (0, 1),
) -> Iterator[list[dict[str, Any]]]:
    """The entries of a COCO results file, image by image, in order; part (k, n): every n-th image from the k-th."""
    samples = Subset(PlainSamples(split, size), range(part[0], len(split), part[1]))
    for batch in plain_loader(samples, settings.batch_size, 0):
        indices = batch.index.tolist()
        sizes = [(int(w), int(h)) for w, h in split.sizes[indices]]
        found = detect_images(model, priors, batch.images, sizes, device, settings)
        for index, image_size, detections in zip(indices, sizes, found, strict=True):
            yield coco_results(int(split.image_ids[index]), image_size, detections, split.category_ids)


def coco_results_together(
    model: nn.Module,
    priors: Tensor,
    split: PackedSplit,
    size: int,
    device: torch.device,
    settings: EvaluateParams,
    group: Group,
    title: str = "",
) -> list[list[dict[str, Any]]]:
    """coco_results_of_split by all processes of the group, each its part; all get the whole, in order.

    title: of a progress bar that rank 0 shows; empty for none.
    """
    part = range(group.rank, len(split), group.size)
    found = coco_results_of_split(model, priors, split, size, device, settings, (group.rank, group.size))
    parts = group.gather(list(tqdm(found, title, len(part), unit="image", disable=not (title and group.leads))))
    return [parts[index % group.size][index // group.size] for index in range(len(split))]


def coco_results(
    image_id: int, size: tuple[int, int], detections: NDArray[np.float32], category_ids: list[int]
) -> list[dict[str, Any]]:
    """Detections [K,6] -> entries of a COCO results file: boxes clipped to the image, xywh.

    A box is x2 - x1 + 1 wide, as the original writes it: training subtracts that pixel.
    """
    width, height = size
    results = []
    for x1, y1, x2, y2, score, label in detections.tolist():
        x1, x2 = (min(max(x, 0.0), width - 1.0) for x in (x1, x2))
        y1, y2 = (min(max(y, 0.0), height - 1.0) for y in (y1, y2))
        box = [round(v, 2) for v in (x1, y1, x2 - x1 + 1, y2 - y1 + 1)]
        category_id = category_ids[int(label) - 1]
        results.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": round(score, 5)})
    return results
