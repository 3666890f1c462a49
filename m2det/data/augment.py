"""SSD's augmentation (Liu et al. 2016, section 2.2; the original's data/data_augment.py), in one resampling.

The original crops, distorts, pastes the result into a canvas up to four times as large, flips and resizes. Here
the crop and its place in the canvas are drawn first, and the visible part alone is resized, once, to where it
ends up: the same pictures at a fraction of the cost. All randomness comes from the generator handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import cv2
import numpy as np

MEAN_BGR = (104, 117, 123)  # of ImageNet, as VGG was trained; canvases are filled with it
_LEAST_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9, -np.inf)  # the crop's least overlap with every box
_TRIES = 50
_LEAST_SIDE = 0.01  # of the output; smaller boxes are dropped


@dataclass(frozen=True)
class Placement:
    """Which part of the image is seen, and where: pixels of the image, then fractions of the output."""

    left: int
    top: int
    width: int
    height: int
    x: float = 0.0
    y: float = 0.0
    x_share: float = 1.0
    y_share: float = 1.0


def augment(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    size: int,
    rng: np.random.Generator,
    crop_probability: float,
    expand_probability: float,
    mirror: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One training sample.

    image uint8 [H,W,3]; boxes float32 [N,4] xyxy pixels; labels [N].
    Returns image uint8 [size,size,3], boxes float32 [M,4] xyxy in [0,1], labels [M]. An image without objects,
    or whose objects would all be lost, is only resized.
    """
    height, width = image.shape[:2]
    whole = Placement(0, 0, width, height)
    if len(boxes) == 0:
        return *resize_into(image, boxes, whole, size), labels
    crop, kept = draw_crop(boxes, width, height, rng, crop_probability)
    colours = draw_distortion(rng)
    place = draw_expansion(crop, rng) if rng.random() < expand_probability else crop
    flip = mirror and rng.random() < 0.5
    out, out_boxes = resize_into(image, boxes[kept], place, size, colours)
    if flip:
        out = np.ascontiguousarray(out[:, ::-1])
        out_boxes[:, [0, 2]] = 1 - out_boxes[:, [2, 0]]
    large = (out_boxes[:, 2:] - out_boxes[:, :2]).min(axis=1) > _LEAST_SIDE
    if not large.any():
        return *resize_into(image, boxes, whole, size), labels
    return out, out_boxes[large], labels[kept][large]


def draw_crop(
    boxes: np.ndarray, width: int, height: int, rng: np.random.Generator, probability: float
) -> tuple[Placement, np.ndarray]:
    """A part of the image that overlaps every box as the drawn mode asks, and the boxes whose centre it holds.

    Side 0.3 to 1 of the image's, aspect ratio 0.5 to 2; after 50 failures the dice are thrown again.
    Returns the crop and a mask bool [N].
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    while rng.random() < probability:
        least_iou = _LEAST_IOUS[rng.integers(len(_LEAST_IOUS))]
        for _ in range(_TRIES):
            scale = rng.uniform(0.3, 1.0)
            ratio = sqrt(rng.uniform(max(0.5, scale * scale), min(2.0, 1 / scale / scale)))
            w, h = int(scale * ratio * width), int(scale / ratio * height)
            if not (0 < w < width and 0 < h < height):
                continue
            left, top = int(rng.integers(width - w)), int(rng.integers(height - h))
            low, high = np.array([left, top]), np.array([left + w, top + h])
            overlap = (np.minimum(boxes[:, 2:], high) - np.maximum(boxes[:, :2], low)).clip(0).prod(1)
            if (overlap / (areas + w * h - overlap)).min() < least_iou:
                continue
            kept = ((low < centres) & (centres < high)).all(1)
            if kept.any():
                return Placement(left, top, w, h), kept
    return Placement(0, 0, width, height), np.ones(len(boxes), bool)


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


@dataclass(frozen=True)
class Distortion:
    """Tables for brightness and contrast, then saturation, and a shift of hue; None where not drawn."""

    values: np.ndarray | None
    saturation: np.ndarray | None
    hue: int


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


def distort(image: np.ndarray, colours: Distortion) -> np.ndarray:
    """uint8 [H,W,3] BGR -> the same, distorted."""
    if colours.values is not None:
        image = cv2.LUT(image, colours.values)
    if colours.hue or colours.saturation is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        identity = np.arange(256, dtype=np.uint8)
        turned = ((np.arange(256) + colours.hue) % 180).astype(np.uint8)
        saturation = identity if colours.saturation is None else colours.saturation
        table = np.stack([turned, saturation, identity], axis=-1)[None]
        image = cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2BGR)
    return image


def resize_into(
    image: np.ndarray,
    boxes: np.ndarray,
    place: Placement,
    size: int,
    colours: Distortion = Distortion(None, None, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """Resize the seen part of the image to its place in a square filled with the mean.

    Returns uint8 [size,size,3] and the boxes, clipped to the seen part, float32 [N,4] xyxy in [0,1].
    """
    x0, y0 = round(place.x * size), round(place.y * size)
    x1 = max(x0 + 1, round((place.x + place.x_share) * size))
    y1 = max(y0 + 1, round((place.y + place.y_share) * size))
    seen = image[place.top : place.top + place.height, place.left : place.left + place.width]
    resized = distort(cv2.resize(seen, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR), colours)
    if resized.shape[:2] == (size, size):
        out = resized
    else:
        out = np.empty((size, size, 3), np.uint8)
        out[:] = MEAN_BGR
        out[y0:y1, x0:x1] = resized
    origin = np.array([place.left, place.top] * 2, np.float32)
    extent = np.array([place.width, place.height] * 2, np.float32)
    share = (boxes - origin).clip(0, extent) / extent
    start = np.array([x0, y0] * 2, np.float32)
    length = np.array([x1 - x0, y1 - y0] * 2, np.float32)
    return out, ((start + share * length) / size).astype(np.float32)
