"""Tiles of a large photo, in which a network sees small objects larger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tile:
    """A part of an image: left, top, right, bottom in pixels, right and bottom outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return the part of an array [H,W,...]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def tiles_of(size: tuple[int, int], side: int, overlap: float) -> list[Tile]:
    """Return the whole image and, of a larger one, square tiles that cover it.

    Args:
        size: (width, height) of the image, px.
        side: Of a tile, px; 0 for the whole image alone.
        overlap: Share of a tile's side that neighbours have in common at least.
    """
    width, height = size
    tiles = [Tile(0, 0, width, height)]
    if side and max(size) > side:
        for top in _starts(height, side, overlap):
            for left in _starts(width, side, overlap):
                tiles.append(Tile(left, top, min(left + side, width), min(top + side, height)))
    return tiles


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where tiles begin along one side of an image, evenly."""
    if length <= side:
        return [0]
    count = 1 + int(np.ceil((length - side) / max(1, side * (1 - overlap))))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def merge_tiles(
    tiles: Sequence[Tile], candidates: Sequence[NDArray[np.float32]], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return all tiles' candidates as candidates of the image.

    An object that a tile cuts is left to the neighbour that has more of it, or to the whole image: boxes that reach an
    inner edge of their tile are dropped.

    Args:
        tiles: Of an image.
        candidates: Of each tile, float32 [N,6]: xyxy in [0,1] of the tile, score, label.
        size: (width, height) of the image, px.

    Returns:
        float32 [N,6], xyxy in [0,1] of the image.
    """
    if len(tiles) == 1:
        return candidates[0]
    width, height = size
    merged = []
    for tile, rows in zip(tiles, candidates, strict=True):
        scale = np.array([tile.right - tile.left, tile.bottom - tile.top] * 2, np.float32)
        offset = np.array([tile.left, tile.top] * 2, np.float32)
        boxes = rows[:, :4] * scale + offset  # px
        low, high = np.array([tile.left, tile.top]), np.array([tile.right, tile.bottom])
        cut = (boxes[:, :2] < low + 1) & (low > 0) | (boxes[:, 2:] > high - 2) & (high < (width, height))
        kept = ~cut.any(1)
        relative = boxes[kept] / np.array([width, height] * 2, np.float32)
        merged.append(np.column_stack([relative, rows[kept, 4:]]).astype(np.float32, copy=False))
    return np.concatenate(merged)
