"""SSD's augmentation (Liu et al. 2016, section 2.2; the original's data/data_augment.py): its pixels.

The original crops, distorts, pastes the result into a canvas up to four times as large, flips and resizes. Here
all of it is drawn first (m2det/data/sampling.py), and the visible part alone is resized, once, to where it ends up: the
same pictures at a fraction of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from m2det.data.jpeg import REDUCTIONS
from m2det.model.preprocess import MEAN_BGR


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


@dataclass(frozen=True)
class Distortion:
    """Tables for brightness and contrast, then saturation, and a shift of hue; None where not drawn."""

    values: np.ndarray | None = None
    saturation: np.ndarray | None = None
    hue: int = 0


UNCHANGED = Distortion()


@dataclass(frozen=True)
class View:
    """A placement in whole pixels: of the image as decoded, and of the output. Both are x0, y0, x1, y1.

    scale: pixels of the annotation per pixel of the decoded image, x and y. reduction: to decode with.
    """

    part: tuple[int, int, int, int]
    window: tuple[int, int, int, int]
    scale: tuple[float, float]
    reduction: int

    def boxes(self, boxes: np.ndarray, size: int) -> np.ndarray:
        """float32 [N,4] xyxy in pixels of the annotation -> in [0,1] of the output, clipped to what is seen."""
        left, top, right, bottom = self.part
        x0, y0, x1, y1 = self.window
        x_scale, y_scale = self.scale
        width, height = (right - left) * x_scale, (bottom - top) * y_scale
        seen = (boxes - _twice(left * x_scale, top * y_scale)).clip(0, _twice(width, height))
        seen *= _twice((x1 - x0) / width / size, (y1 - y0) / height / size)
        return seen + _twice(x0 / size, y0 / size)


def _twice(x: float, y: float) -> np.ndarray:
    return np.array((x, y, x, y), np.float32)


def view_of(place: Placement, annotated: tuple[int, int], stored: tuple[int, int], size: int, may_reduce: bool) -> View:
    """The placement, given the image's (width, height) in the annotation and as stored.

    may_reduce: decode at a fraction where that still has a pixel for each one seen. The seen part then moves to
    whole pixels of the smaller image, by half of one at most, and boxes move with it.
    """
    x0, y0 = round(place.x * size), round(place.y * size)
    x1 = max(x0 + 1, round((place.x + place.x_share) * size))
    y1 = max(y0 + 1, round((place.y + place.y_share) * size))
    x_scale, y_scale = annotated[0] / stored[0], annotated[1] / stored[1]
    room = min(place.width / x_scale / (x1 - x0), place.height / y_scale / (y1 - y0))
    reduction = next(r for r in REDUCTIONS if r == 1 or (may_reduce and room >= r))
    x_scale, y_scale = x_scale * reduction, y_scale * reduction
    left, right = _whole_pixels(place.left, place.width, x_scale, -(-stored[0] // reduction))
    top, bottom = _whole_pixels(place.top, place.height, y_scale, -(-stored[1] // reduction))
    return View((left, top, right, bottom), (x0, y0, x1, y1), (x_scale, y_scale), reduction)


def _whole_pixels(start: int, length: int, scale: float, pixels: int) -> tuple[int, int]:
    low = min(round(start / scale), pixels - 1)
    return low, min(max(round((start + length) / scale), low + 1), pixels)


def render(image: np.ndarray, view: View, out: np.ndarray, colours: Distortion, flip: bool = False) -> None:
    """Resize the seen part of the decoded image to its window of out, uint8 [S,S,3]; the rest is the mean.

    Colours are changed where there are fewer pixels: before the resizing, as in the original, or after it.
    """
    left, top, right, bottom = view.part
    x0, y0, x1, y1 = view.window
    row = _mean_row(out.shape[1])  # assigning three values to each pixel would cost more than all else here
    out[:y0], out[y1:] = row, row
    out[y0:y1, :x0], out[y0:y1, x1:] = row[:x0], row[x1:]
    seen, window, size = image[top:bottom, left:right], out[y0:y1, x0:x1], (x1 - x0, y1 - y0)
    if (right - left) * (bottom - top) < size[0] * size[1]:
        cv2.resize(distort(seen, colours), size, dst=window, interpolation=cv2.INTER_LINEAR)
    else:
        cv2.resize(seen, size, dst=window, interpolation=cv2.INTER_LINEAR)
        distort(window, colours, window)
    if flip:
        cv2.flip(out, 1, dst=out)


@lru_cache(maxsize=4)
def _mean_row(size: int) -> np.ndarray:
    return np.tile(np.array(MEAN_BGR, np.uint8), (size, 1))


def distort(image: np.ndarray, colours: Distortion, out: np.ndarray | None = None) -> np.ndarray:
    """uint8 [H,W,3] BGR, as a new array, or written to out, which may be the image; unchanged it is returned itself."""
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


def resize_into(image: np.ndarray, boxes: np.ndarray, place: Placement, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The seen part of the image in a square filled with the mean.

    Returns uint8 [size,size,3] and the boxes, clipped to the seen part, float32 [N,4] xyxy in [0,1].
    """
    whole = (image.shape[1], image.shape[0])
    view = view_of(place, whole, whole, size, False)
    out = np.empty((size, size, 3), np.uint8)
    render(image, view, out, UNCHANGED)
    return out, view.boxes(boxes, size)
