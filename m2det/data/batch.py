"""A batch: samples with their boxes padded to one number, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m2det.data.dataset import Objects, Sample


@dataclass(frozen=True)
class Batch:
    """Samples that the network sees together.

    images: uint8 [B,3,S,S] BGR.
    boxes: float32 [B,G,4] xyxy in [0,1], padded with zeros; G is the most objects of a sample, rounded up to 16, 32,
        64, ...
    labels: int64 [B,G], 0 for padding.
    index: positions in the split, int64 [B].
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    index: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all but the index on the device."""
        images, boxes, labels = (x.to(device, non_blocking=True) for x in (self.images, self.boxes, self.labels))
        return Batch(images, boxes, labels, self.index)

    def pin_memory(self) -> Batch:
        """Return a copy in pinned memory, all but the index."""
        return Batch(self.images.pin_memory(), self.boxes.pin_memory(), self.labels.pin_memory(), self.index)


def collate(samples: list[Sample]) -> Batch:
    """Stack samples into one batch."""
    images, boxes, labels, index = zip(*samples, strict=True)
    return make_batch(np.stack(images), list(zip(boxes, labels, strict=True)), list(index))


def make_batch(images: np.ndarray, objects: list[Objects], index: list[int]) -> Batch:
    """Return a batch that shares the memory of the images.

    Args:
        images: uint8 [B,S,S,3] BGR.
        objects: of each image, boxes float32 [N,4] and labels [N].
        index: of each image, its position in the split.
    """
    padded = 16
    while padded < max(len(boxes) for boxes, _ in objects):
        padded *= 2
    boxes = np.zeros((len(objects), padded, 4), np.float32)
    labels = np.zeros((len(objects), padded), np.int64)
    for i, (sample_boxes, sample_labels) in enumerate(objects):
        boxes[i, : len(sample_boxes)] = sample_boxes
        labels[i, : len(sample_labels)] = sample_labels
    nchw = torch.from_numpy(images).permute(0, 3, 1, 2)
    return Batch(nchw, torch.from_numpy(boxes), torch.from_numpy(labels), torch.tensor(index))
