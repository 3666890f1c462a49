"""The random parameters of SSD's augmentation, sampled for a training image before its pixels are read.

Source: Liu et al. 2016, section 2.2; ranges and probabilities are the original's (data/data_augment.py). All randomness
comes from the generator handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import sqrt

import numpy as np

_MIN_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9, -np.inf)  # one is sampled: the crop's IoU with every box is at least that
_MAX_TRIES = 50


@dataclass(frozen=True)
class Distortion:
    """Photometric distortion: lookup tables uint8 [256], then a shift of the hue; None and 0 change nothing.

    values: brightness and contrast, for all channels. saturation: for S of HSV. hue: added to H, modulo 180.
    """

    values: np.ndarray | None = None
    saturation: np.ndarray | None = None
    hue: int = 0


UNCHANGED = Distortion()


@dataclass(frozen=True)
class Augmentation:
    """The parameters of one training sample.

    src_rect: the crop, xyxy in pixels of the annotated image.
    dst_rect: where the crop is resized to, xyxy in fractions of the output's side; the rest is filled with the mean.
    kept: bool [N], the boxes whose centre lies in the crop.
    """

    src_rect: tuple[int, int, int, int]
    dst_rect: tuple[float, float, float, float]
    kept: np.ndarray
    colours: Distortion = UNCHANGED
    hflip: bool = False


def identity(width: int, height: int, num_boxes: int = 0) -> Augmentation:
    """Return the parameters that resize the whole image to the whole output and keep all boxes."""
    return Augmentation((0, 0, width, height), (0, 0, 1, 1), np.ones(num_boxes, bool))


def sample_augmentation(
    boxes: np.ndarray,
    width: int,
    height: int,
    rng: np.random.Generator,
    crop_probability: float,
    expand_probability: float,
    hflip: bool,
) -> Augmentation:
    """Sample the parameters of one training sample.

    Args:
        boxes: float32 [N,4] xyxy in pixels, N above 0.
        width: of the annotated image, px.
        height: of the annotated image, px.
        rng: the only source of randomness.
        crop_probability: of a crop instead of the whole image.
        expand_probability: of an output that the crop fills in part.
        hflip: flip every second sample, left to right.
    """
    src_rect, kept = sample_crop(boxes, width, height, rng, crop_probability)
    colours = sample_distortion(rng)
    dst_rect = sample_expansion(rng) if rng.random() < expand_probability else (0.0, 0.0, 1.0, 1.0)
    return Augmentation(src_rect, dst_rect, kept, colours, bool(hflip and rng.random() < 0.5))


def sample_crop(
    boxes: np.ndarray, width: int, height: int, rng: np.random.Generator, probability: float
) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Sample a crop whose IoU with every box reaches a sampled minimum, and that holds the centre of one at least.

    The side is 0.3 to 1 of the image's, the aspect ratio 0.5 to 2. After 50 failures the choice between the whole image
    and a crop, and the minimum, are sampled anew.

    Returns:
        xyxy in pixels, and which boxes have their centre in the crop, bool [N].
    """
    x1, y1, x2, y2 = boxes.T.astype(float)
    areas, x_centres, y_centres = (x2 - x1) * (y2 - y1), (x1 + x2) / 2, (y1 + y2) / 2
    max_iou = _max_iou(areas.min(), width, height)
    while rng.random() < probability:
        min_iou = _MIN_IOUS[rng.integers(len(_MIN_IOUS))]
        if min_iou > max_iou:
            continue  # all tries would fail, as most do where a box is small
        # the 50 tries at once, of which the first that fits counts: one by one they took longer than the decoding;
        # columns [50,1] against boxes [N]
        uniform = rng.random((4, _MAX_TRIES, 1))
        scale = 0.3 + 0.7 * uniform[0]
        min_ratio, max_ratio = np.maximum(0.5, scale * scale), np.minimum(2.0, 1 / scale / scale)
        ratio = np.sqrt(min_ratio + (max_ratio - min_ratio) * uniform[1])
        w, h = (scale * ratio * width).astype(int), (scale / ratio * height).astype(int)
        left, top = (uniform[2] * (width - w)).astype(int), (uniform[3] * (height - h)).astype(int)
        right, bottom = left + w, top + h
        kept = (left < x_centres) & (x_centres < right) & (top < y_centres) & (y_centres < bottom)
        overlap = (np.minimum(x2, right) - np.maximum(x1, left)).clip(0)
        overlap *= (np.minimum(y2, bottom) - np.maximum(y1, top)).clip(0)
        smaller = (w > 0) & (w < width) & (h > 0) & (h < height)
        fits = smaller[:, 0] & kept.any(1) & (overlap >= min_iou * (areas + w * h - overlap)).all(1)
        first = int(fits.argmax())
        if fits[first]:
            crop = int(left[first, 0]), int(top[first, 0]), int(right[first, 0]), int(bottom[first, 0])
            return crop, kept[first]
    return (0, 0, width, height), np.ones(len(boxes), bool)


def _max_iou(area: float, width: int, height: int) -> float:
    """Return an upper bound of any crop's IoU with a box of that area: even the smallest crop is larger by that."""
    min_crop = 0.09 * width * height - 0.43 * (width + height)  # (s r w - 1)(s / r h - 1) at s 0.3, r to sqrt(2)
    return area / min_crop if min_crop > area else 1.0


def sample_expansion(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Sample a canvas of 1 to 4 times the crop's side, aspect ratio 0.5 to 2 times its own, and the crop's place in it.

    Returns:
        The crop's place, xyxy in fractions of the canvas.
    """
    for _ in range(_MAX_TRIES):
        scale = rng.uniform(1.0, 4.0)
        ratio = sqrt(rng.uniform(max(0.5, 1 / scale / scale), min(2.0, scale * scale)))
        x_scale, y_scale = scale * ratio, scale / ratio
        if x_scale >= 1 and y_scale >= 1:
            x, y = rng.uniform(0, 1 - 1 / x_scale), rng.uniform(0, 1 - 1 / y_scale)
            return x, y, x + 1 / x_scale, y + 1 / y_scale
    return 0.0, 0.0, 1.0, 1.0


def sample_distortion(rng: np.random.Generator) -> Distortion:
    """Sample, each with probability 0.5: brightness +-32, contrast and saturation x 0.5 to 1.5, hue +-18 of 180."""
    brightness, contrast, hue, saturation = rng.random(4) < 0.5
    ramp = np.arange(256, dtype=np.float64)
    values = ramp
    if brightness:
        values = np.trunc((values + rng.uniform(-32, 32)).clip(0, 255))
    if contrast:
        values = (values * rng.uniform(0.5, 1.5)).clip(0, 255)
    hue_shift = int(rng.integers(-18, 19)) if hue else 0
    saturation_table = (ramp * rng.uniform(0.5, 1.5)).clip(0, 255).astype(np.uint8) if saturation else None
    return Distortion(values.astype(np.uint8) if brightness or contrast else None, saturation_table, hue_shift)


class Stream(IntEnum):
    """The uses of random numbers; another number gives another training."""

    ORDER = 1  # of an epoch's images
    AUGMENTATION = 2  # of an image in an epoch
    SHOWN = 3  # which images a contact sheet shows


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """Return the random generator for one use of the seed.

    A spawn key is hashed after the seed, padded to 128 bits: a tuple as seed would run its numbers together, and ignore
    zeros at its end.

    Args:
        seed: below 2**64.
        stream: the use.
        key: further numbers, such as epoch and image, each below 2**32.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *key)))
