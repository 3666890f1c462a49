"""SSD's augmentation: what is drawn for an image, before a pixel of it is read.

All randomness comes from the generator handed in; ranges and odds are the original's (data/data_augment.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import sqrt

import numpy as np

from m2det.data.transforms import UNCHANGED, Distortion, Placement

_LEAST_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9, -np.inf)  # the crop's least overlap with every box
_TRIES = 50


@dataclass(frozen=True)
class Plan:
    """What is seen and where, which boxes stay (bool [N]), colours, and whether left and right change places."""

    place: Placement
    kept: np.ndarray
    colours: Distortion = UNCHANGED
    flip: bool = False


def plain(boxes: np.ndarray, width: int, height: int) -> Plan:
    """The whole image as it is, with all its boxes."""
    return Plan(Placement(0, 0, width, height), np.ones(len(boxes), bool))


def draw_plan(
    boxes: np.ndarray,
    width: int,
    height: int,
    rng: np.random.Generator,
    crop_probability: float,
    expand_probability: float,
    mirror: bool,
) -> Plan:
    """One training sample of an image with boxes float32 [N,4] xyxy pixels, N above 0."""
    crop, kept = draw_crop(boxes, width, height, rng, crop_probability)
    colours = draw_distortion(rng)
    place = draw_expansion(crop, rng) if rng.random() < expand_probability else crop
    return Plan(place, kept, colours, bool(mirror and rng.random() < 0.5))


def draw_crop(
    boxes: np.ndarray, width: int, height: int, rng: np.random.Generator, probability: float
) -> tuple[Placement, np.ndarray]:
    """A part of the image that overlaps every box as the drawn mode asks, and the boxes whose centre it holds.

    Side 0.3 to 1 of the image's, aspect ratio 0.5 to 2; after 50 failures the dice are thrown again.
    Returns the crop and a mask bool [N].
    """
    x1, y1, x2, y2 = boxes.T.astype(float)
    areas, x_centres, y_centres = (x2 - x1) * (y2 - y1), (x1 + x2) / 2, (y1 + y2) / 2
    most_iou = _most_iou(areas.min(), width, height)
    while rng.random() < probability:
        least_iou = _LEAST_IOUS[rng.integers(len(_LEAST_IOUS))]
        if least_iou > most_iou:
            continue  # all tries would fail, as most do where a box is small
        # the 50 tries at once, of which the first that fits counts: one by one they took longer than the decoding;
        # columns [50,1] against boxes [N]
        drawn = rng.random((4, _TRIES, 1))
        scale = 0.3 + 0.7 * drawn[0]
        narrow, wide = np.maximum(0.5, scale * scale), np.minimum(2.0, 1 / scale / scale)
        ratio = np.sqrt(narrow + (wide - narrow) * drawn[1])
        w, h = (scale * ratio * width).astype(int), (scale / ratio * height).astype(int)
        left, top = (drawn[2] * (width - w)).astype(int), (drawn[3] * (height - h)).astype(int)
        right, bottom = left + w, top + h
        kept = (left < x_centres) & (x_centres < right) & (top < y_centres) & (y_centres < bottom)
        overlap = (np.minimum(x2, right) - np.maximum(x1, left)).clip(0)
        overlap *= (np.minimum(y2, bottom) - np.maximum(y1, top)).clip(0)
        fits = (w > 0) & (w < width) & (h > 0) & (h < height)
        good = fits[:, 0] & kept.any(1) & (overlap >= least_iou * (areas + w * h - overlap)).all(1)
        first = int(good.argmax())
        if good[first]:
            place = (int(side[first, 0]) for side in (left, top, w, h))
            return Placement(*place), kept[first]
    return Placement(0, 0, width, height), np.ones(len(boxes), bool)


def _most_iou(area: float, width: int, height: int) -> float:
    """What no crop's overlap with a box of that area exceeds: even the smallest crop is larger by that."""
    least_crop = 0.09 * width * height - 0.43 * (width + height)  # (s r w - 1)(s / r h - 1) at s 0.3, r to sqrt(2)
    return area / least_crop if least_crop > area else 1.0


def draw_expansion(crop: Placement, rng: np.random.Generator) -> Placement:
    """Place the crop in a canvas of 1 to 4 times its side, aspect ratio 0.5 to 2 times its own."""
    for _ in range(_TRIES):
        scale = rng.uniform(1.0, 4.0)
        ratio = sqrt(rng.uniform(max(0.5, 1 / scale / scale), min(2.0, scale * scale)))
        x_scale, y_scale = scale * ratio, scale / ratio
        if x_scale >= 1 and y_scale >= 1:
            x, y = rng.uniform(0, 1 - 1 / x_scale), rng.uniform(0, 1 - 1 / y_scale)
            return Placement(crop.left, crop.top, crop.width, crop.height, x, y, 1 / x_scale, 1 / y_scale)
    return crop


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Each with probability one half: brightness +-32, contrast and saturation x 0.5 to 1.5, hue +-18 of 180."""
    drawn = rng.random(4) < 0.5
    ramp = np.arange(256, dtype=np.float64)
    values = ramp
    if drawn[0]:
        values = np.trunc((values + rng.uniform(-32, 32)).clip(0, 255))
    if drawn[1]:
        values = (values * rng.uniform(0.5, 1.5)).clip(0, 255)
    hue = int(rng.integers(-18, 19)) if drawn[2] else 0
    saturation = (ramp * rng.uniform(0.5, 1.5)).clip(0, 255).astype(np.uint8) if drawn[3] else None
    return Distortion(values.astype(np.uint8) if drawn[:2].any() else None, saturation, hue)


class Stream(IntEnum):
    """What numbers are drawn for; another number is another training."""

    ORDER = 1  # of an epoch's images
    AUGMENTATION = 2  # of an image in an epoch
    SHOWN = 3  # which images a sheet of samples has


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """The generator for this use of the seed, which is below 2**64; key: further numbers, each below 2**32.

    A spawn key is hashed after the seed, padded to 128 bits: a tuple as seed would run its numbers together, and ignore
    zeros at its end.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *key)))
