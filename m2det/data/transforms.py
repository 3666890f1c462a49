"""SSD's augmentation of an image's pixels and boxes, in one resize.

The original crops, distorts, pastes the result into a canvas up to four times as large, flips and resizes. Here all
parameters are sampled first (m2det/data/sampling.py), and the crop alone is resized, once, to its place in the output:
the same pictures at a fraction of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from m2det.data.jpeg import REDUCTIONS
from m2det.data.sampling import UNCHANGED, Augmentation, Distortion, identity
from m2det.model.preprocess import MEAN_BGR


@dataclass(frozen=True)
class CropResize:
    """Crop and resize parameters in whole pixels.

    src_rect: xyxy in the image as decoded. dst_rect: xyxy in the output. reduction: to decode the image with.
    scale: pixels of the annotated image per pixel of the decoded image, (x, y).
    """

    src_rect: tuple[int, int, int, int]
    dst_rect: tuple[int, int, int, int]
    scale: tuple[float, float]
    reduction: int

    def boxes(self, boxes: np.ndarray, size: int) -> np.ndarray:
        """Return float32 [N,4] xyxy in pixels of the annotated image as [0,1] of the output, clipped to the crop."""
        left, top, right, bottom = self.src_rect
        x0, y0, x1, y1 = self.dst_rect
        x_scale, y_scale = self.scale
        width, height = (right - left) * x_scale, (bottom - top) * y_scale
        visible = (boxes - _xyxy_scale(left * x_scale, top * y_scale)).clip(0, _xyxy_scale(width, height))
        visible *= _xyxy_scale((x1 - x0) / width / size, (y1 - y0) / height / size)
        return visible + _xyxy_scale(x0 / size, y0 / size)


def _xyxy_scale(x: float, y: float) -> np.ndarray:
    return np.array((x, y, x, y), np.float32)


def crop_resize(
    augmentation: Augmentation, annotated: tuple[int, int], stored: tuple[int, int], size: int, reduce: bool
) -> CropResize:
    """Round an augmentation's rectangles to whole pixels.

    Args:
        augmentation: its src_rect and dst_rect are used.
        annotated: (width, height) of the annotated image, px.
        stored: (width, height) of the image as stored, px.
        size: of the output's side, px.
        reduce: decode the image at a fraction where the crop still has a pixel for each one of the output. The crop
            then moves to whole pixels of the smaller image, by half a pixel at most, and boxes move with it.
    """
    left, top, right, bottom = augmentation.src_rect
    x0, y0, x1, y1 = (round(fraction * size) for fraction in augmentation.dst_rect)
    x1, y1 = max(x0 + 1, x1), max(y0 + 1, y1)
    x_scale, y_scale = annotated[0] / stored[0], annotated[1] / stored[1]
    shrinking = min((right - left) / x_scale / (x1 - x0), (bottom - top) / y_scale / (y1 - y0))
    reduction = next(r for r in REDUCTIONS if r == 1 or (reduce and shrinking >= r))
    x_scale, y_scale = x_scale * reduction, y_scale * reduction
    left, right = _whole_pixels(left, right, x_scale, -(-stored[0] // reduction))
    top, bottom = _whole_pixels(top, bottom, y_scale, -(-stored[1] // reduction))
    return CropResize((left, top, right, bottom), (x0, y0, x1, y1), (x_scale, y_scale), reduction)


def _whole_pixels(start: int, end: int, scale: float, pixels: int) -> tuple[int, int]:
    low = min(round(start / scale), pixels - 1)
    return low, min(max(round(end / scale), low + 1), pixels)


def apply(image: np.ndarray, rects: CropResize, out: np.ndarray, colours: Distortion, hflip: bool = False) -> None:
    """Resize the crop of the decoded image to its place in out, uint8 [S,S,3] BGR; fill the rest with the mean.

    Colours are changed where pixels are fewer: before the resizing, as in the original, or after it.
    """
    left, top, right, bottom = rects.src_rect
    x0, y0, x1, y1 = rects.dst_rect
    row = _mean_row(out.shape[1])  # assigning three values to each pixel would cost more than all else here
    out[:y0], out[y1:] = row, row
    out[y0:y1, :x0], out[y0:y1, x1:] = row[:x0], row[x1:]
    crop, target, size = image[top:bottom, left:right], out[y0:y1, x0:x1], (x1 - x0, y1 - y0)
    if (right - left) * (bottom - top) < size[0] * size[1]:
        cv2.resize(distort(crop, colours), size, dst=target, interpolation=cv2.INTER_LINEAR)
    else:
        cv2.resize(crop, size, dst=target, interpolation=cv2.INTER_LINEAR)
        distort(target, colours, target)
    if hflip:
        cv2.flip(out, 1, dst=out)


@lru_cache(maxsize=4)
def _mean_row(size: int) -> np.ndarray:
    return np.tile(np.array(MEAN_BGR, np.uint8), (size, 1))


def distort(image: np.ndarray, colours: Distortion, out: np.ndarray | None = None) -> np.ndarray:
    """Change the colours of an image, uint8 [H,W,3] BGR.

    Returns a new array, or `out`, which may be the image; the image itself where nothing changes.
    """
    if colours.values is not None:
        image = out = cv2.LUT(image, colours.values, dst=out)
    tables = {}
    if colours.hue:
        tables[0] = ((np.arange(256) + colours.hue) % 180).astype(np.uint8)
    if colours.saturation is not None:
        tables[1] = colours.saturation
    if tables:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV, dst=out)
        for channel, table in tables.items():  # one by one: a table of three channels takes longer than both
            cv2.insertChannel(cv2.LUT(cv2.extractChannel(image, channel), table), image, channel)
        cv2.cvtColor(image, cv2.COLOR_HSV2BGR, dst=image)
    return image


def resize_to_square(image: np.ndarray, size: int) -> np.ndarray:
    """Return the whole image, uint8 [H,W,3] BGR, resized to uint8 [size,size,3], as for training and evaluation."""
    width, height = image.shape[1::-1]
    out = np.empty((size, size, 3), np.uint8)
    apply(image, crop_resize(identity(width, height), (width, height), (width, height), size, False), out, UNCHANGED)
    return out
