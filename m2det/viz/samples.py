"""Pictures of a data set: as annotated, and as the network gets it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from m2det.config import Params
from m2det.data.dataset import PlainDataset, TrainingDataset
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.data.sampling import Stream, generator
from m2det.data.sources.records import Split
from m2det.data.upright import Setting, extents, pixels_of, which_pixels
from m2det.errors import InputError
from m2det.model.config import get_config
from m2det.viz.draw import BLUE, GREEN, BoxAnnotation, contact_sheet, thumbnail

SIDE = 288  # of a thumbnail, px
COLUMNS, ROWS = 5, 4


def draw_annotated(split: Split, orientation: Setting = "ask", seed: int = 0) -> NDArray[np.uint8]:
    """Draw random images with the boxes that training would get; those that cannot be read are left out.

    Args:
        split: to draw of.
        orientation: which pixels boxes are of, as data.orientation; images of which nothing tells are shown upright.
        seed: of the choice.
    """
    indices = [i for i, record in enumerate(split.records) if len(record.boxes)] or list(range(len(split.records)))
    reach, thumbnails, unreadable = cache(lambda: extents(split)), [], 0
    for index in (indices[i] for i in generator(seed, Stream.SHOWN, 0).permutation(len(indices)).tolist()):
        record = split.records[index]
        try:
            data = record.read()
            kind = which_pixels(data, record, partial(_row, reach, index), orientation)
            image = decode_bgr(pixels_of(data, kind), str(record.path))
        except (InputError, OSError):
            unreadable += 1
            continue
        names = [split.categories[label - 1].name for label in record.labels]
        colours = [BLUE if crowd else GREEN for crowd in record.iscrowd]
        boxes = [BoxAnnotation(tuple(box), *rest) for box, *rest in zip(record.boxes, names, colours, strict=True)]
        caption = f"image {record.image_id}: {len(boxes)} boxes"
        thumbnails.append((index, thumbnail(image, boxes, SIDE), caption))
        if len(thumbnails) == COLUMNS * ROWS:
            break
    left_out = f"; {unreadable} left out that cannot be read" if unreadable else ""
    title = f"{len(thumbnails)} of {len(indices)} images with boxes, as cleaned (blue: crowds){left_out}"
    nothing = (0, np.full((SIDE, SIDE, 3), 235, np.uint8), "no image can be read")
    ordered = sorted(thumbnails or [nothing], key=lambda item: item[0])
    return contact_sheet([(picture, caption) for _, picture, caption in ordered], COLUMNS, [title])


def _row(array: Callable[[], NDArray[np.float64]], index: int) -> NDArray[np.float64]:
    row: NDArray[np.float64] = array()[index]
    return row


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
