"""Crop and resize parameters in whole pixels, and the boxes that they leave visible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m2det.data.jpeg import REDUCTIONS
from m2det.data.sampling import Augmentation


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
        reduce: decode the image at a fraction where the crop then still has more pixels than the output: linear
            resizing of the whole would look at some of them and pass over the others. The crop moves to whole pixels
            of the smaller image, by half a pixel at most, and boxes move with it. COCO's images, 640 px at most, are
            never reduced as a whole at 320 px or more.
    """
    left, top, right, bottom = augmentation.src_rect
    x0, y0, x1, y1 = (round(fraction * size) for fraction in augmentation.dst_rect)
    x1, y1 = max(x0 + 1, x1), max(y0 + 1, y1)
    x_scale, y_scale = annotated[0] / stored[0], annotated[1] / stored[1]
    shrinking = min((right - left) / x_scale / (x1 - x0), (bottom - top) / y_scale / (y1 - y0))
    reduction = next(r for r in REDUCTIONS if r == 1 or (reduce and shrinking > r))
    x_scale, y_scale = x_scale * reduction, y_scale * reduction
    left, right = _whole_pixels(left, right, x_scale, -(-stored[0] // reduction))
    top, bottom = _whole_pixels(top, bottom, y_scale, -(-stored[1] // reduction))
    return CropResize((left, top, right, bottom), (x0, y0, x1, y1), (x_scale, y_scale), reduction)


def _whole_pixels(start: int, end: int, scale: float, pixels: int) -> tuple[int, int]:
    low = min(round(start / scale), pixels - 1)
    return low, min(max(round(end / scale), low + 1), pixels)
