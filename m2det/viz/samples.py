"""Pictures of a data set: as it was annotated, and as the network gets it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m2det.config import Params
from m2det.data.dataset import PlainDataset, TrainingDataset
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.data.sampling import Stream, generator
from m2det.data.sources.coco import Split
from m2det.model.config import get_config
from m2det.viz.draw import BLUE, GREEN, Mark, sheet, tile

EDGE = 288  # of a sample's picture, px
COLUMNS, ROWS = 5, 4


def draw_annotated(split: Split, seed: int = 0) -> NDArray[np.uint8]:
    """A sheet of random images with the boxes that training would get. Raises InputError for what is no image."""
    records = [record for record in split.records if len(record.boxes)] or split.records
    tiles = []
    for record in (records[i] for i in _some(len(records), seed, 0)):
        image = decode_bgr(record.read(), str(record.path))
        names = [split.categories[label - 1].name for label in record.labels]
        colours = [BLUE if crowd else GREEN for crowd in record.iscrowd]
        marks = [Mark(tuple(box), *rest) for box, *rest in zip(record.boxes, names, colours, strict=True)]
        tiles.append((tile(image, marks, EDGE), f"image {record.image_id}: {len(marks)} boxes"))
    return sheet(tiles, COLUMNS, [f"{len(tiles)} of {len(records)} images with boxes, as cleaned (blue: crowds)"])


def draw_packed(split: PackedSplit, params: Params, epoch: int) -> NDArray[np.uint8]:
    """A sheet of random samples: train's as augmented in that epoch, val's as evaluated."""
    size = get_config(params.model.name, **params.model.all_overrides).size
    augmented, plain = TrainingDataset(split, size, params.seed, params.train), PlainDataset(split, size)
    tiles = []
    for index in _some(len(split), params.seed, epoch):
        image, boxes, labels, _ = augmented[epoch, index] if split.name == "train" else plain[index]
        names = [split.classes[label - 1] for label in labels]
        marks = [Mark(tuple(box), name, GREEN) for box, name in zip(boxes * size, names, strict=True)]
        tiles.append((tile(image, marks, EDGE), f"image {split.image_ids[index]}: {len(marks)} boxes"))
    how = f"augmented as in epoch {epoch}" if split.name == "train" else "resized only"
    return sheet(tiles, COLUMNS, [f"{len(tiles)} of {len(split)} images of {split.name}, {how}, {size}x{size} px"])


def _some(count: int, seed: int, epoch: int) -> list[int]:
    return sorted(generator(seed, Stream.SHOWN, epoch).permutation(count)[: COLUMNS * ROWS].tolist())
