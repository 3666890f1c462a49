"""Tiles cover an image, and small objects are found in them once."""

import itertools

import numpy as np
import pytest

from m2det.detect.tiles import Tile, merge_tiles, tiles_of


@pytest.mark.parametrize("size", [(100, 100), (640, 480), (1000, 90), (97, 1001), (321, 320)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.9])
def test_tiles_cover_the_image_and_overlap(size, overlap):
    tiles = tiles_of(size, 96, overlap)
    assert tiles[0] == Tile(0, 0, *size)
    covered = np.zeros(size[::-1], int)
    for tile in tiles[1:]:
        assert 0 <= tile.left < tile.right <= size[0] and 0 <= tile.top < tile.bottom <= size[1]
        assert max(tile.right - tile.left, tile.bottom - tile.top) <= 96
        covered[tile.slices] += 1
    assert covered.min() > 0
    lefts = sorted({tile.left for tile in tiles[1:]})
    assert all(right - left <= max(1, round(96 * (1 - overlap))) for left, right in itertools.pairwise(lefts))


def test_small_images_and_no_tiles_are_the_whole_image():
    assert tiles_of((90, 60), 96, 0.25) == [Tile(0, 0, 90, 60)]
    assert tiles_of((900, 600), 0, 0.25) == [Tile(0, 0, 900, 600)]


def test_boxes_come_back_in_the_image_and_cut_objects_are_left_to_neighbours():
    tiles = [Tile(0, 0, 200, 100), Tile(0, 0, 100, 100), Tile(100, 0, 200, 100)]
    of_image = np.array([[0.45, 0.1, 0.55, 0.2, 0.9, 1]], np.float32)  # lies over the border of both tiles
    left = np.array([[0.1, 0.1, 0.2, 0.2, 0.8, 2], [0.9, 0.1, 1.0, 0.2, 0.7, 1]], np.float32)
    right = np.array([[0.5, 0.5, 1.0, 1.0, 0.6, 3], [0.0, 0.1, 0.1, 0.2, 0.5, 1]], np.float32)
    merged = merge_tiles(tiles, [of_image, left, right], (200, 100))
    expected = [[0.45, 0.1, 0.55, 0.2, 0.9, 1], [0.05, 0.1, 0.1, 0.2, 0.8, 2], [0.75, 0.5, 1.0, 1.0, 0.6, 3]]
    np.testing.assert_allclose(merged, expected, atol=1e-6)
    assert merged.dtype == np.float32
