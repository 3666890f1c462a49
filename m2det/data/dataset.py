"""One sample of a packed split: decoded, augmented or only resized, with its boxes."""

from __future__ import annotations

import numpy as np

from m2det.config import TrainParams
from m2det.data.crop_resize import crop_resize
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.data.sampling import UNCHANGED, Stream, generator, identity, sample_augmentation
from m2det.data.transforms import apply, whole_image

Key = tuple[int, int]  # (epoch, index) of a training sample
Objects = tuple[np.ndarray, np.ndarray]  # boxes float32 [N,4] xyxy in [0,1], labels [N]
Sample = tuple[np.ndarray, np.ndarray, np.ndarray, int]  # image uint8 [S,S,3] BGR, boxes, labels, index in the split
MIN_SIDE = 0.01  # of the output; smaller boxes are dropped


class TrainingDataset:
    """Augmented samples, looked up by (epoch, index); each follows from the seed and its key alone."""

    def __init__(self, split: PackedSplit, size: int, seed: int, settings: TrainParams) -> None:
        self.split, self.size, self.seed = split, size, seed
        self.probabilities = settings.crop_probability, settings.expand_probability, settings.hflip

    def __getitem__(self, key: Key) -> Sample:
        image = np.empty((self.size, self.size, 3), np.uint8)
        return image, *self.write_sample(key, image), key[1]

    def write_sample(self, key: Key, out: np.ndarray) -> Objects:
        """Write a sample's image to `out` and return its objects.

        An image without objects, or that would lose all of them, is only resized.

        Args:
            key: (epoch, index).
            out: uint8 [S,S,3], BGR.

        Returns:
            boxes float32 [M,4] xyxy in [0,1], labels [M].
        """
        epoch, index = key
        rng = generator(self.seed, Stream.AUGMENTATION, epoch, index)
        objects, record, encoding = self.split.annotations(index), self.split.record(index), self.split.encoding
        trained = ~objects.iscrowd  # crowds are regions, not objects: only evaluation uses them
        boxes, labels = objects.boxes[trained], objects.labels[trained]
        width, height = self.split.sizes[index].tolist()
        stored, reduce = encoding.size(width, height), encoding.reducible
        augmentation = identity(width, height, len(boxes))
        if len(boxes):
            augmentation = sample_augmentation(boxes, width, height, rng, *self.probabilities)
        rects = crop_resize(augmentation, (width, height), stored, self.size, reduce)
        visible = rects.boxes(boxes[augmentation.kept], self.size)
        large = (visible[:, 2:] - visible[:, :2]).min(axis=1) > MIN_SIDE
        if len(boxes) and not large.any():
            augmentation = identity(width, height, len(boxes))
            rects = crop_resize(augmentation, (width, height), stored, self.size, reduce)
            visible = rects.boxes(boxes, self.size)
            large = (visible[:, 2:] > visible[:, :2]).all(axis=1)  # not at the edge, within half a pixel
        if augmentation.hflip:
            visible[:, [0, 2]] = 1 - visible[:, [2, 0]]
        image = decode_bgr(record, self.split.file_names[index], reduction=rects.reduction)
        apply(image, rects, out, augmentation.colours, augmentation.hflip)
        return visible[large], labels[augmentation.kept][large]


class PlainDataset:
    """Images resized and nothing else, with all their objects, crowds too; looked up by index."""

    def __init__(self, split: PackedSplit, size: int) -> None:
        self.split, self.size = split, size

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        image = np.empty((self.size, self.size, 3), np.uint8)
        return image, *self.write_sample((0, index), image), index

    def write_sample(self, key: Key, out: np.ndarray) -> Objects:
        """Write a sample's image to `out` and return its objects, as TrainingDataset.write_sample does.

        Args:
            key: (any epoch, index).
            out: uint8 [S,S,3], BGR.
        """
        index = key[1]
        objects = self.split.annotations(index)
        width, height = self.split.sizes[index].tolist()
        encoding = self.split.encoding
        rects = whole_image((width, height), self.size, encoding.size(width, height), encoding.reducible)
        image = decode_bgr(self.split.record(index), self.split.file_names[index], rects.reduction)
        apply(image, rects, out, UNCHANGED)
        return rects.boxes(objects.boxes, self.size), objects.labels
