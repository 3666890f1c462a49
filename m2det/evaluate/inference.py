"""From the network's outputs to boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from m2det.config import EvaluateParams
from m2det.data.batch import collate
from m2det.data.dataset import PlainDataset
from m2det.data.packed.reader import PackedSplit
from m2det.distributed.group import Group
from m2det.evaluate.coco_results import coco_results
from m2det.evaluate.postprocess import postprocess
from m2det.model.preprocess import subtract_mean


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
    outputs = model(subtract_mean(images.to(device, non_blocking=True), device))
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
    samples = Subset(PlainDataset(split, size), range(part[0], len(split), part[1]))
    for batch in DataLoader(samples, settings.batch_size, collate_fn=collate):
        indices = batch.index.tolist()
        sizes = [(int(w), int(h)) for w, h in split.sizes[indices]]
        found = detect_images(model, priors, batch.images, sizes, device, settings)
        for index, image_size, detections in zip(indices, sizes, found, strict=True):
            yield coco_results(int(split.image_ids[index]), image_size, detections, split.category_ids)


def coco_results_distributed(
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
    parts = group.all_gather(
        list(tqdm(found, title, len(part), unit="image", disable=not (title and group.is_main_process)))
    )
    return [parts[index % group.size][index // group.size] for index in range(len(split))]
