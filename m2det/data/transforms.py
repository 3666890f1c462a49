"""SSD's augmentation of an image's pixels, in one resize.

The original crops, distorts, pastes the result into a canvas up to four times as large, flips and resizes. Here all
parameters are known before, and the crop alone is resized, once, to its place in the output: the same pictures at a
fraction of the cost.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from m2det.data.crop_resize import CropResize, crop_resize
from m2det.data.jpeg import decode_bgr, shrunk
from m2det.data.sampling import UNCHANGED, Distortion, identity
from m2det.model.preprocess import MEAN_BGR


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


def square_of_file(data: bytes, name: str, image: np.ndarray, size: int) -> np.ndarray:
    """Return an image file without augmentation, uint8 [size,size,3] BGR, as validation has it.

    Args:
        data: the file.
        name: of the file, for messages.
        image: the same decoded, uint8 [H,W,3] BGR.
        size: of the output's side, px.
    """
    rects = whole_image(size_of(image), size)
    reduced = decode_bgr(data, name, rects.reduction) if rects.reduction > 1 else image
    return _square(reduced, rects, size)


def square_of_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """Return an image without augmentation, uint8 [size,size,3] BGR; large ones as validation has those of no JPEG."""
    rects = whole_image(size_of(image), size)
    return _square(shrunk(image, rects.reduction), rects, size)


def size_of(image: np.ndarray) -> tuple[int, int]:
    """Return (width, height) of an image, [H,W,...]."""
    height, width = image.shape[:2]
    return width, height


def _square(image: np.ndarray, rects: CropResize, size: int) -> np.ndarray:
    out = np.empty((size, size, 3), np.uint8)
    apply(image, rects, out, UNCHANGED)
    return out


def whole_image(
    annotated: tuple[int, int], size: int, stored: tuple[int, int] | None = None, reduce: bool = True
) -> CropResize:
    """Return how a whole image becomes a square, in validation, detection and export as in training.

    Args:
        annotated: (width, height) of the upright image, px.
        size: of the output's side, px.
        stored: (width, height) as decoded, px, if other than annotated.
        reduce: as for crop_resize.
    """
    return crop_resize(identity(*annotated), annotated, stored or annotated, size, reduce)
