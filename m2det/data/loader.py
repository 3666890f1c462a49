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
from m2det.data.augment import Placement, augment, resize_into
from m2det.data.image import decode_bgr
from m2det.data.store import PackedSplit
from m2det.errors import InputError


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
    most = max(len(boxes) for _, boxes, _, _ in samples)
    padded = 16
    while padded < most:
        padded *= 2
    boxes = np.zeros((len(samples), padded, 4), np.float32)
    labels = np.zeros((len(samples), padded), np.int64)
    for i, (_, sample_boxes, sample_labels, _) in enumerate(samples):
        boxes[i, : len(sample_boxes)] = sample_boxes
        labels[i, : len(sample_labels)] = sample_labels
    images = torch.from_numpy(np.stack([image for image, _, _, _ in samples])).permute(0, 3, 1, 2)
    index = torch.tensor([i for _, _, _, i in samples])
    return Batch(images, torch.from_numpy(boxes), torch.from_numpy(labels), index)


class TrainingSamples(Dataset[Sample]):
    """Augmented samples, asked for by (epoch, index)."""

    def __init__(self, split: PackedSplit, size: int, seed: int, settings: TrainParams) -> None:
        self.split, self.size, self.seed = split, size, seed
        self.settings = settings

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        image = decode_bgr(self.split.jpeg(index), self.split.file_names[index])
        objects = self.split.annotations(index)
        wanted = ~objects.iscrowd  # crowds are regions, not objects: evaluation alone knows them
        image, boxes, labels = augment(
            image,
            objects.boxes[wanted],
            objects.labels[wanted],
            self.size,
            rng,
            self.settings.crop_probability,
            self.settings.expand_probability,
            self.settings.mirror,
        )
        return image, boxes, labels, index


class PlainSamples(Dataset[Sample]):
    """Images resized and nothing else, with all their objects, asked for by index."""

    def __init__(self, split: PackedSplit, size: int) -> None:
        self.split, self.size = split, size

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        image = decode_bgr(self.split.jpeg(index), self.split.file_names[index])
        objects = self.split.annotations(index)
        whole = Placement(0, 0, image.shape[1], image.shape[0])
        image, boxes = resize_into(image, objects.boxes, whole, self.size)
        return image, boxes, objects.labels, index


@lru_cache(maxsize=1)
def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """The permutation of an epoch, int64 [images]."""
    return np.random.default_rng((seed, epoch)).permutation(images)


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
        self.part_size, self.total = batch_size, own * processes
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


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one process per core already; OpenCV's pool also hangs after a fork


def training_loader(samples: TrainingSamples, order: TrainingOrder, workers: int, pin: bool) -> DataLoader[Sample]:
    """One pass over `order`, which holds all epochs, so that workers start once."""
    return DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
    )


def plain_loader(samples: Dataset[Sample], batch_size: int, workers: int) -> DataLoader[Sample]:
    """Every image once, in order."""
    return DataLoader(samples, batch_size, num_workers=workers, collate_fn=collate, worker_init_fn=_start_worker)
