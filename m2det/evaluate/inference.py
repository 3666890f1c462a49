"""Detect objects: in one batch, in a packed split, and in a packed split by several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2det.config import EvaluateParams
from m2det.data.dataloader import validation_loader
from m2det.data.ordered_map import ordered_map
from m2det.data.packed.reader import PackedSplit
from m2det.distributed.group import Group
from m2det.evaluate.candidates import select_candidates
from m2det.evaluate.coco_results import coco_results
from m2det.evaluate.postprocess import suppress
from m2det.model.preprocess import subtract_mean
from m2det.progress import NO_PROGRESS, Progress

Network = Callable[[Tensor], dict[str, Tensor]]  # images float32 [B,3,S,S] -> loc and conf, as M2Det.forward
MAX_BYTES = 256 << 20  # of candidates that wait for NMS
MAX_NMS_THREADS = 4  # of a process: enough for several hundred images per second, and other processes need cores, too


def detect_images(
    model: Network,
    priors: Tensor,
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    device: torch.device,
    settings: EvaluateParams,
) -> list[NDArray[np.float32]]:
    """Detect objects in a batch of images.

    Args:
        model: The network, in eval mode, on the device.
        priors: float32 [P,4] cxcywh in [0,1], on the device.
        images: uint8 [B,3,S,S] BGR.
        sizes: (width, height) in pixels of each image before resizing.
        device: The device.
        settings: The settings of postprocess.

    Returns:
        Per image float32 [K,6]: xyxy in the original image's pixels, score, label from 1.
    """
    candidates = candidates_of_images(model, priors, images, device, settings.score_threshold)
    return [suppress_image(*pair, settings) for pair in zip(candidates, sizes, strict=True)]


@torch.inference_mode()
def candidates_of_images(
    model: Network, priors: Tensor, images: Tensor, device: torch.device, score_threshold: float
) -> list[NDArray[np.float32]]:
    """Return each image's candidates for NMS, float32 [N,6] as of select_candidates; arguments as of detect_images."""
    outputs = model(subtract_mean(images.to(device, non_blocking=True), device))
    # on a CPU nothing is lost by one image at a time, and an untrained network leaves every box of every class
    parts = zip(
        *(outputs[name].split(1 if device.type == "cpu" else len(images)) for name in ("loc", "conf")), strict=True
    )
    return [each for loc, conf in parts for each in select_candidates(loc, conf, priors, score_threshold)]


def suppress_image(
    candidates: NDArray[np.float32], size: tuple[int, int], settings: EvaluateParams
) -> NDArray[np.float32]:
    """Return an image's detections as detect_images does, of its candidates."""
    return suppress(candidates, size, settings.nms, settings.nms_iou, settings.per_class, settings.per_image)


def coco_results_of_split(
    model: Network,
    priors: Tensor,
    split: PackedSplit,
    size: int,
    device: torch.device,
    settings: EvaluateParams,
    workers: int,
    indices: Sequence[int],
) -> Iterator[list[dict[str, Any]]]:
    """Yield the entries of a COCO results file, image by image, in the order of the indices.

    While an accelerator computes, workers decode the next batches, and threads suppress the boxes of the last one. On
    a CPU the network has all cores, and this process decodes.

    Args:
        model: The network, in eval mode, on the device.
        priors: float32 [P,4] cxcywh in [0,1], on the device.
        split: The packed split.
        size: Side of the network's input in pixels.
        device: The device.
        settings: The batch size and the settings of postprocess.
        workers: Processes that decode images for an accelerator; 0 for this one.
        indices: Positions of the images in the split.
    """
    accelerated = device.type != "cpu"
    loader = validation_loader(split, size, indices, settings.batch_size, workers if accelerated else 0, accelerated)
    threads = min(MAX_NMS_THREADS, torch.get_num_threads())

    def candidates() -> Iterator[tuple[int, NDArray[np.float32]]]:
        for batch in loader:
            found = candidates_of_images(model, priors, batch.images, device, settings.score_threshold)
            yield from zip(batch.index.tolist(), found, strict=True)

    def entries(candidate: tuple[int, NDArray[np.float32]]) -> list[dict[str, Any]]:
        index, boxes = candidate
        width, height = split.sizes[index].tolist()
        detections = suppress_image(boxes, (width, height), settings)
        return coco_results(int(split.image_ids[index]), (width, height), detections, split.category_ids)

    least = MAX_BYTES // (2 * settings.batch_size)  # so that two batches are the most
    return ordered_map(candidates(), entries, threads, lambda each: max(least, each[1].nbytes), MAX_BYTES)


def coco_results_distributed(
    model: Network,
    priors: Tensor,
    split: PackedSplit,
    size: int,
    device: torch.device,
    settings: EvaluateParams,
    workers: int,
    group: Group,
    progress: Progress = NO_PROGRESS,
) -> list[list[dict[str, Any]]]:
    """Run coco_results_of_split in all processes of the group, each on every n-th image, and gather the results.

    Args:
        model, priors, split, size, device, settings, workers: As for coco_results_of_split.
        group: The process group; every process of it calls this function.
        progress: Of this process: an image that it has done stands for one in each process.

    Returns:
        The entries of each image of the split, in order, in every process.
    """
    indices = range(group.rank, len(split), group.size)
    entries = coco_results_of_split(model, priors, split, size, device, settings, workers, indices)
    shards = group.all_gather(list(progress.track(entries, group.size)))
    return [shards[index % group.size][index // group.size] for index in range(len(split))]
