"""Batches. Order and augmentation follow from (seed, epoch, image) alone, so a run resumes from its step count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from m2det.config import TrainParams
from m2det.data.augment import render, view_of
from m2det.data.image import decode_bgr
from m2det.data.plan import draw_plan, plain
from m2det.data.store import PackedSplit
from m2det.data.workers import Key, Objects, filled
from m2det.errors import InputError
from m2det.streams import Stream, generator

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


class TrainingSamples:
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
            odds = (settings.crop_probability, settings.expand_probability, settings.mirror)
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


class PlainSamples(Dataset[Sample]):
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


@lru_cache(maxsize=1)
def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """The permutation of an epoch, int64 [images]."""
    return generator(seed, Stream.ORDER, epoch).permutation(images)


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for a whole training, a permutation per epoch, the last partial step left out.

    batch_size: images per batch; a step has `accumulate` batches in each of `processes`, and process `rank` gets
    its share of them. Which images a step has, all processes together, depends on its total size alone.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        seed: int,
        steps: int,
        start: int = 0,
        rank: int = 0,
        processes: int = 1,
        accumulate: int = 1,
    ) -> None:
        own = batch_size * accumulate
        if images < own * processes:
            times = f", accumulated {accumulate} times" if accumulate > 1 else ""
            together = f" in each of {processes} processes" if processes > 1 else ""
            raise InputError(
                f"train.batch_size is {batch_size}{times}{together}, but there are only {images} training images; "
                "lower it"
            )
        self.images, self.seed = images, seed
        self.part_size, self.accumulate, self.total = batch_size, accumulate, own * processes
        self.share = slice(rank * own, (rank + 1) * own)
        self.steps, self.start = steps, start
        self.steps_per_epoch = images // self.total

    def batch(self, step: int) -> list[tuple[int, int]]:
        """What this process sees in step number `step` (from 0, over all epochs)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, self.images)
        return [(epoch, int(i)) for i in order[within * self.total : (within + 1) * self.total][self.share]]

    def parts(self, step: int) -> list[list[tuple[int, int]]]:
        """The same as the batches that are computed one after the other."""
        batch = self.batch(step)
        return [batch[i : i + self.part_size] for i in range(0, len(batch), self.part_size)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (part for step in range(self.start, self.steps) for part in self.parts(step))

    def __len__(self) -> int:
        return (self.steps - self.start) * len(self.parts(0))


def training_loader(samples: TrainingSamples, order: TrainingOrder, workers: int, pin: bool) -> Iterator[Batch]:
    """One pass over `order`, which holds all epochs, so that workers start once.

    pin copies each batch to pinned memory, whose allocator keeps it until the device has read it. Without, a batch
    is a view of a slot, which is overwritten when the batches of the next step have been taken.
    """
    shape = (order.part_size, samples.size, samples.size, 3)
    for keys, images, objects in filled(samples, order, shape, workers, held=order.accumulate + 1):
        batch = _batch(images, objects, [index for _, index in keys])
        yield batch.pin_memory() if pin else batch


def plain_loader(samples: Dataset[Sample], batch_size: int, workers: int) -> DataLoader[Sample]:
    """Every image once, in order."""
    return DataLoader(samples, batch_size, num_workers=workers, collate_fn=collate, worker_init_fn=_start_worker)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one process per core already; OpenCV's pool also hangs after a fork
