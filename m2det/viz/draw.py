"""Pictures of detections, next to what they should have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from m2det.text import printable

GREEN, RED, BLUE, WHITE, BLACK = (80, 200, 60), (60, 60, 230), (230, 140, 40), (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Mark:
    """One box to draw: xyxy in pixels of the image, a text, a BGR colour."""

    box: tuple[float, float, float, float]
    text: str
    colour: tuple[int, int, int]


def draw_boxes(image: NDArray[np.uint8], marks: Sequence[Mark], scale: float = 1.0) -> NDArray[np.uint8]:
    """uint8 [H,W,3] BGR, enlarged by scale, with boxes and texts that stay within it."""
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    canvas = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    size = max(0.4, min(width, height) / 900)
    for mark in marks:
        x1, y1, x2, y2 = (round(v * scale) for v in mark.box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), mark.colour, max(1, round(2 * size)))
    for mark in marks:  # texts last, so that no box covers one
        _write(canvas, mark.text, round(mark.box[0] * scale), round(mark.box[1] * scale), size, mark.colour)
    return canvas


def _write(canvas: NDArray[np.uint8], text: str, x: int, y: int, size: float, colour: tuple[int, int, int]) -> None:
    text = printable(text)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    x = max(0, min(x, canvas.shape[1] - width - 2))
    bottom = y - 1 if y - height - below - 2 >= 0 else y + height + below + 2
    cv2.rectangle(canvas, (x, bottom - height - below - 1), (x + width + 2, bottom), colour, -1)
    cv2.putText(canvas, text, (x + 1, bottom - below), cv2.FONT_HERSHEY_SIMPLEX, size, BLACK, 1, cv2.LINE_AA)


def sheet(tiles: Sequence[tuple[NDArray[np.uint8], str]], columns: int, title: Sequence[str]) -> NDArray[np.uint8]:
    """Tiles of equal size, each with a caption below it, under a title of some lines."""
    height, width = tiles[0][0].shape[:2]
    caption, gap, line = 22, 10, 24
    rows = -(-len(tiles) // columns)
    top = line * len(title) + gap
    shape = (top + rows * (height + caption + gap), gap + columns * (width + gap), 3)
    out = np.full(shape, 255, np.uint8)
    for i, text in enumerate(title):
        _print(out, text, gap, line * (i + 1) - 5, 0.55)
    for i, (tile, text) in enumerate(tiles):
        x = gap + (i % columns) * (width + gap)
        y = top + (i // columns) * (height + caption + gap)
        out[y : y + height, x : x + width] = tile
        _print(out, text, x, y + height + 15, 0.42)
    return out


def _print(canvas: NDArray[np.uint8], text: str, x: int, y: int, size: float) -> None:
    cv2.putText(canvas, printable(text), (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, BLACK, 1, cv2.LINE_AA)


def fit(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
    """The image as it fits a grey square of `side`: canvas, scale, and where (x, y) it lies in it."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return (
        np.full((side, side, 3), 235, np.uint8),
        scale,
        (
            (side - round(width * scale)) // 2,
            (side - round(height * scale)) // 2,
        ),
    )


def tile(image: NDArray[np.uint8], marks: Sequence[Mark], side: int) -> NDArray[np.uint8]:
    """The marked image in a square of `side` pixels."""
    canvas, scale, (x, y) = fit(image, side)
    drawn = draw_boxes(image, marks, scale)
    canvas[y : y + drawn.shape[0], x : x + drawn.shape[1]] = drawn
    return canvas
