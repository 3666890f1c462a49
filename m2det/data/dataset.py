"""Batches. Order and augmentation follow from (seed, epoch, image) alone, so a run resumes from its step count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from m2det.config import TrainParams
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.data.sampling import Stream, draw_plan, generator, plain
from m2det.data.transforms import render, view_of

Key = tuple[int, int]  # (epoch, index) of a training sample
Objects = tuple[np.ndarray, np.ndarray]  # boxes float32 [N,4], labels [N]
LEAST_SIDE = 0.01  # of the output; smaller boxes are dropped


@dataclass(frozen=True)
class Batch:
    """images uint8 [B,3,S,S] BGR; boxes float32 [B,G,4] xyxy in [0,1], zero padded; labels int64 [B,G], 0 = padding.

    index: positions in the split, int64 [B]. G is the batch's most objects rounded up to 16, 32, 64, ...
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    index: Tensor

    def to(self, device: torch.device) -> Batch:
        images, boxes, labels = (x.to(device, non_blocking=True) for x in (self.images, self.boxes, self.labels))
        return Batch(images, boxes, labels, self.index)

    def pin_memory(self) -> Batch:
        return Batch(self.images.pin_memory(), self.boxes.pin_memory(), self.labels.pin_memory(), self.index)


Sample = tuple[np.ndarray, np.ndarray, np.ndarray, int]


def collate(samples: list[Sample]) -> Batch:
    """Samples (image [S,S,3], boxes [N,4], labels [N], index) -> one padded batch."""
    images, boxes, labels, index = zip(*samples, strict=True)
    return _batch(np.stack(images), list(zip(boxes, labels, strict=True)), list(index))


def _batch(images: np.ndarray, objects: list[Objects], index: list[int]) -> Batch:
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


class TrainingDataset:
    """Augmented samples, asked for by (epoch, index)."""

    def __init__(self, split: PackedSplit, size: int, seed: int, settings: TrainParams) -> None:
        self.split, self.size, self.seed = split, size, seed
        self.settings = settings

    def __getitem__(self, key: Key) -> Sample:
        image = np.empty((self.size, self.size, 3), np.uint8)
        return image, *self.fill(key, image), key[1]

    def fill(self, key: Key, out: np.ndarray) -> Objects:
        """Write the image to out, uint8 [S,S,3]; returns its boxes float32 [M,4] xyxy in [0,1] and labels [M].

        An image without objects, or whose objects would all be lost, is only resized.
        """
        epoch, index = key
        rng = generator(self.seed, Stream.AUGMENTATION, epoch, index)
        objects, settings, storage = self.split.annotations(index), self.settings, self.split.storage
        wanted = ~objects.iscrowd  # crowds are regions, not objects: evaluation alone knows them
        boxes, labels = objects.boxes[wanted], objects.labels[wanted]
        width, height = self.split.sizes[index].tolist()
        stored, may_reduce = storage.size(width, height), storage.images != "raw"
        plan = plain(boxes, width, height)
        if len(boxes):
            odds = (settings.crop_probability, settings.expand_probability, settings.hflip)
            plan = draw_plan(boxes, width, height, rng, *odds)
        view = view_of(plan.place, (width, height), stored, self.size, may_reduce)
        seen = view.boxes(boxes[plan.kept], self.size)
        large = (seen[:, 2:] - seen[:, :2]).min(axis=1) > LEAST_SIDE
        if len(boxes) and not large.any():
            plan = plain(boxes, width, height)
            view = view_of(plan.place, (width, height), stored, self.size, may_reduce)
            seen = view.boxes(boxes, self.size)
            large = (seen[:, 2:] > seen[:, :2]).all(axis=1)  # not at the edge, within half a pixel
        if plan.flip:
            seen[:, [0, 2]] = 1 - seen[:, [2, 0]]
        image = decode_bgr(self.split.record(index), self.split.file_names[index], reduction=view.reduction)
        render(image, view, out, plan.colours, plan.flip)
        return seen[large], labels[plan.kept][large]


class PlainDataset(Dataset[Sample]):
    """Images resized and nothing else, with all their objects, asked for by index."""

    def __init__(self, split: PackedSplit, size: int) -> None:
        self.split, self.size = split, size

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        objects = self.split.annotations(index)
        width, height = self.split.sizes[index].tolist()
        plan, stored = plain(objects.boxes, width, height), self.split.storage.size(width, height)
        view = view_of(plan.place, (width, height), stored, self.size, False)
        out = np.empty((self.size, self.size, 3), np.uint8)
        render(decode_bgr(self.split.record(index), self.split.file_names[index]), view, out, plan.colours)
        return out, view.boxes(objects.boxes, self.size), objects.labels, index
