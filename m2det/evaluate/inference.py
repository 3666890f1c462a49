"""Detect objects: in one batch, in a packed split, and in a packed split by several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from m2det.config import EvaluateParams
from m2det.data.batch import collate
from m2det.data.dataset import PlainDataset
from m2det.data.packed.reader import PackedSplit
from m2det.distributed.group import Group
from m2det.evaluate.coco_results import coco_results
from m2det.evaluate.postprocess import postprocess
from m2det.model.preprocess import subtract_mean
from m2det.progress import NO_PROGRESS, Progress

Network = Callable[[Tensor], dict[str, Tensor]]  # images float32 [B,3,S,S] -> loc and conf, as M2Det.forward


@torch.inference_mode()
def detect_images(
    model: Network,
    priors: Tensor,
    images: Tensor,
    sizes: list[tuple[int, int]],
    device: torch.device,
    settings: EvaluateParams,
) -> list[NDArray[np.float32]]:
    """Detect objects in a batch of images.

    Args:
        model: The network, in eval mode, on the device.
        priors: float32 [P,4] cxcywh in [0,1], on the CPU.
        images: uint8 [B,3,S,S] BGR.
        sizes: (width, height) in pixels of each image before resizing.
        device: The device.
        settings: The settings of postprocess.

    Returns:
        Per image float32 [K,6]: xyxy in the original image's pixels, score, label from 1.
    """
    outputs = model(subtract_mean(images.to(device, non_blocking=True), device))
    # autocast's outputs are in low precision, scores and boxes are not
    loc, conf = outputs["loc"].float().cpu(), outputs["conf"].float().cpu()
    options = settings.model_dump(exclude={"batch_size", "scorer"})
    return [postprocess(loc[i], conf[i], priors, size, **options) for i, size in enumerate(sizes)]


def coco_results_of_split(
    model: Network,
    priors: Tensor,
    split: PackedSplit,
    size: int,
    device: torch.device,
    settings: EvaluateParams,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[list[dict[str, Any]]]:
    """Yield the entries of a COCO results file, image by image, in the split's order.

    Args:
        model: The network, in eval mode, on the device.
        priors: float32 [P,4] cxcywh in [0,1], on the CPU.
        split: The packed split.
        size: Side of the network's input in pixels.
        device: The device.
        settings: The batch size and the settings of postprocess.
        shard: (k, n) for every n-th image from the k-th on.
    """
    samples = Subset(PlainDataset(split, size), range(shard[0], len(split), shard[1]))
    for batch in DataLoader(samples, settings.batch_size, collate_fn=collate):
        indices = batch.index.tolist()
        sizes = [(int(w), int(h)) for w, h in split.sizes[indices]]
        detections = detect_images(model, priors, batch.images, sizes, device, settings)
        for index, image_size, rows in zip(indices, sizes, detections, strict=True):
            yield coco_results(int(split.image_ids[index]), image_size, rows, split.category_ids)


def coco_results_distributed(
    model: Network,
    priors: Tensor,
    split: PackedSplit,
    size: int,
    device: torch.device,
    settings: EvaluateParams,
    group: Group,
    progress: Progress = NO_PROGRESS,
) -> list[list[dict[str, Any]]]:
    """Run coco_results_of_split in all processes of the group, each on its shard, and gather the results.

    Args:
        model, priors, split, size, device, settings: As for coco_results_of_split.
        group: The process group; every process of it calls this function.
        progress: Of this process: an image that it has done stands for one in each process.

    Returns:
        The entries of each image of the split, in order, in every process.
    """
    entries = coco_results_of_split(model, priors, split, size, device, settings, (group.rank, group.size))
    shards = group.all_gather(list(progress.track(entries, group.size)))
    return [shards[index % group.size][index // group.size] for index in range(len(split))]
