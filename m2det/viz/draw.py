"""Boxes drawn on images, and contact sheets of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from m2det.text import printable

GREEN, RED, BLUE, GREY, BLACK = (80, 200, 60), (60, 60, 230), (230, 140, 40), (160, 160, 160), (0, 0, 0)
GOLDEN_ANGLE = 137.508  # degrees of hue between neighbouring classes, whose colours so look different


@dataclass(frozen=True)
class BoxAnnotation:
    """One box to draw: xyxy in pixels of the image, a text, a BGR colour."""

    box: tuple[float, float, float, float]
    text: str
    colour: tuple[int, int, int]


def draw_boxes(image: NDArray[np.uint8], annotations: Sequence[BoxAnnotation], scale: float = 1.0) -> NDArray[np.uint8]:
    """Return a copy of an image, uint8 [H,W,3] BGR, enlarged by scale, with boxes and texts that stay within it."""
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    canvas = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    size = max(0.4, min(width, height) / 900)
    for annotation in annotations:
        x1, y1, x2, y2 = (round(v * scale) for v in annotation.box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), annotation.colour, max(1, round(2 * size)))
    for annotation in annotations:  # texts last, so that no box covers one
        x, y = (round(v * scale) for v in annotation.box[:2])
        _draw_label(canvas, annotation.text, x, y, size, annotation.colour)
    return canvas


def colour_of_label(label: int) -> tuple[int, int, int]:
    """Return a colour of a class, BGR, that differs from those of its neighbours."""
    hsv = np.array([[[int(label * GOLDEN_ANGLE) % 360 // 2, 150, 255]]], np.uint8)
    blue, green, red = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def _draw_label(
    canvas: NDArray[np.uint8], text: str, x: int, y: int, size: float, colour: tuple[int, int, int]
) -> None:
    text = printable(text)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    x = max(0, min(x, canvas.shape[1] - width - 2))
    bottom = y - 1 if y - height - below - 2 >= 0 else y + height + below + 2
    cv2.rectangle(canvas, (x, bottom - height - below - 1), (x + width + 2, bottom), colour, -1)
    cv2.putText(canvas, text, (x + 1, bottom - below), cv2.FONT_HERSHEY_SIMPLEX, size, BLACK, 1, cv2.LINE_AA)


def contact_sheet(
    thumbnails: Sequence[tuple[NDArray[np.uint8], str]], columns: int, title: Sequence[str]
) -> NDArray[np.uint8]:
    """Draw thumbnails, uint8 [H,W,3] BGR of equal size, each with a caption below, under a title of some lines."""
    height, width = thumbnails[0][0].shape[:2]
    caption, gap, line = 22, 10, 24
    rows = -(-len(thumbnails) // columns)
    top = line * len(title) + gap
    shape = (top + rows * (height + caption + gap), gap + columns * (width + gap), 3)
    out = np.full(shape, 255, np.uint8)
    for i, text in enumerate(title):
        _draw_text(out, text, gap, line * (i + 1) - 5, 0.55)
    for i, (image, text) in enumerate(thumbnails):
        x = gap + (i % columns) * (width + gap)
        y = top + (i // columns) * (height + caption + gap)
        out[y : y + height, x : x + width] = image
        _draw_text(out, text, x, y + height + 15, 0.42)
    return out


def _draw_text(canvas: NDArray[np.uint8], text: str, x: int, y: int, size: float) -> None:
    cv2.putText(canvas, printable(text), (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, BLACK, 1, cv2.LINE_AA)


def thumbnail(image: NDArray[np.uint8], annotations: Sequence[BoxAnnotation], side: int) -> NDArray[np.uint8]:
    """Draw boxes on an image, uint8 [H,W,3] BGR, letterboxed into a grey square of `side` pixels."""
    drawn = draw_boxes(image, annotations, side / max(image.shape[:2]))
    height, width = drawn.shape[:2]
    y, x = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), 235, np.uint8)
    square[y : y + height, x : x + width] = drawn
    return square
