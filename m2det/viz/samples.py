"""Pictures of a data set: as annotated, and as the network gets it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m2det.config import Params
from m2det.data.dataset import PlainDataset, TrainingDataset
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.data.sampling import Stream, generator
from m2det.data.sources.records import Split
from m2det.model.config import get_config
from m2det.viz.draw import BLUE, GREEN, BoxAnnotation, contact_sheet, thumbnail

SIDE = 288  # of a thumbnail, px
COLUMNS, ROWS = 5, 4


def draw_annotated(split: Split, seed: int = 0) -> NDArray[np.uint8]:
    """Draw random images with the boxes that training would get. Raises InputError for a file that is no image."""
    records = [record for record in split.records if len(record.boxes)] or split.records
    thumbnails = []
    for record in (records[i] for i in _sample_indices(len(records), seed, 0)):
        image = decode_bgr(record.read(), str(record.path))
        names = [split.categories[label - 1].name for label in record.labels]
        colours = [BLUE if crowd else GREEN for crowd in record.iscrowd]
        boxes = [BoxAnnotation(tuple(box), *rest) for box, *rest in zip(record.boxes, names, colours, strict=True)]
        thumbnails.append((thumbnail(image, boxes, SIDE), f"image {record.image_id}: {len(boxes)} boxes"))
    title = f"{len(thumbnails)} of {len(records)} images with boxes, as cleaned (blue: crowds)"
    return contact_sheet(thumbnails, COLUMNS, [title])


def draw_packed(split: PackedSplit, params: Params, epoch: int) -> NDArray[np.uint8]:
    """Draw random samples: of train as augmented in that epoch, of val as evaluated."""
    size = get_config(params.model.name, **params.model.all_overrides).size
    augmented, resized = TrainingDataset(split, size, params.seed, params.train), PlainDataset(split, size)
    thumbnails = []
    for index in _sample_indices(len(split), params.seed, epoch):
        image, boxes, labels, _ = augmented[epoch, index] if split.name == "train" else resized[index]
        names = [split.classes[label - 1] for label in labels]
        annotations = [BoxAnnotation(tuple(box), name, GREEN) for box, name in zip(boxes * size, names, strict=True)]
        caption = f"image {split.image_ids[index]}: {len(annotations)} boxes"
        thumbnails.append((thumbnail(image, annotations, SIDE), caption))
    how = f"augmented as in epoch {epoch}" if split.name == "train" else "resized only"
    title = f"{len(thumbnails)} of {len(split)} images of {split.name}, {how}, {size}x{size} px"
    return contact_sheet(thumbnails, COLUMNS, [title])


def _sample_indices(count: int, seed: int, epoch: int) -> list[int]:
    return sorted(generator(seed, Stream.SHOWN, epoch).permutation(count)[: COLUMNS * ROWS].tolist())
