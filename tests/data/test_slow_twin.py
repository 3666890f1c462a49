"""Samples are those of the original's augmentation: step by step for equal parameters, and in distribution."""

import cv2
import numpy as np
import pytest

from m2det.data.crop_resize import crop_resize
from m2det.data.sampling import UNCHANGED, sample_augmentation, sample_distortion
from m2det.data.transforms import apply, distort
from tests.data import slow_twin as twin

SIZE = 128
WIDTH, HEIGHT = 427, 320
BOXES = np.array([[40, 60, 200, 250], [180, 90, 260, 150], [300, 10, 420, 300], [10, 280, 60, 310]], np.float32)
SAMPLES = 2000


def photograph() -> np.ndarray:
    """Smooth, as photographs are: both ways resample it, at places half a pixel apart."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("seed", range(30))
def test_one_resampling_is_the_originals_steps(seed):
    """Same sampled parameters, same boxes and pixels within half a pixel, exactly without a canvas."""
    image = photograph()
    sample = sample_augmentation(BOXES, WIDTH, HEIGHT, np.random.default_rng(seed), 6 / 7, 0.6, True)
    expanded = sample.dst_rect != (0, 0, 1, 1)
    slow, slow_boxes = image, BOXES
    if sample.src_rect != (0, 0, WIDTH, HEIGHT):
        slow, slow_boxes = twin.crop(image, BOXES, np.array(sample.src_rect))
    if expanded:
        x1, y1, x2, y2 = sample.dst_rect
        w, h = round(slow.shape[1] / (x2 - x1)), round(slow.shape[0] / (y2 - y1))
        slow, slow_boxes = twin.expand(slow, slow_boxes, round(x1 * w), round(y1 * h), w, h)
    if sample.hflip:
        slow, slow_boxes = twin.mirror(slow, slow_boxes)
    slow, slow_boxes = twin.finish(slow, slow_boxes, SIZE)

    rects = crop_resize(sample, (WIDTH, HEIGHT), (WIDTH, HEIGHT), SIZE, False)
    fast = np.empty((SIZE, SIZE, 3), np.uint8)
    apply(image, rects, fast, UNCHANGED, sample.hflip)
    fast_boxes = rects.boxes(BOXES[sample.kept], SIZE)
    if sample.hflip:
        fast_boxes[:, [0, 2]] = 1 - fast_boxes[:, [2, 0]]
    np.testing.assert_allclose(fast_boxes * SIZE, slow_boxes * SIZE, atol=0.8)  # half a pixel, and a canvas's rounding
    x0, y0, x1, y1 = rects.dst_rect
    if sample.hflip:
        x0, x1 = SIZE - x1, SIZE - x0
    inner = (slice(y0 + 2, y1 - 2), slice(x0 + 2, x1 - 2))
    if not expanded:
        assert np.abs(fast.astype(int) - slow).max() <= 1
    else:  # the canvas is placed in whole pixels before it is made small, or after: they lie half a pixel apart
        around = np.ones((3, 3), np.uint8)
        low, high = cv2.erode(slow, around).astype(int), cv2.dilate(slow, around).astype(int)
        assert ((fast >= low - 4) & (fast <= high + 4))[inner].mean() > 0.98


@pytest.mark.parametrize("seed", range(20))
def test_tables_are_the_originals_arithmetic(seed):
    colours = sample_distortion(np.random.default_rng(seed))
    image = photograph()
    rng = np.random.default_rng(seed)
    drawn = rng.random(4) < 0.5  # the same random numbers, in the order of sample_distortion
    ranges = ((-32, 32), (0.5, 1.5), None, (0.5, 1.5))
    values = []
    for chosen, ends in zip(drawn, ranges, strict=True):
        value = rng.uniform(*ends) if chosen and ends else None
        values.append(int(rng.integers(-18, 19)) if chosen and not ends else value)
    fast, slow = distort(image, colours), twin.distort(image, *values)
    if not drawn[2:].any():  # the original goes to HSV and back even then, which costs up to 4 levels
        assert np.abs(fast.astype(int) - slow).max() <= 6
    else:
        np.testing.assert_array_equal(fast, slow)


def summary(samples: list[tuple[np.ndarray, float]]) -> dict[str, np.ndarray]:
    kept = [boxes for boxes, _ in samples if len(boxes)]
    every = np.concatenate(kept)
    sides = every[:, 2:] - every[:, :2]
    return {
        "boxes kept": np.array([len(boxes) for boxes, _ in samples], float),
        "share of the output": np.array([share for _, share in samples]),
        "area": sides.prod(1),
        "shape": sides[:, 0] / sides[:, 1],
        "x": every[:, 0],
        "y": every[:, 1],
    }


@pytest.mark.slow
def test_samples_are_distributed_as_the_originals():
    """Kolmogorov and Smirnov's distance between 2000 samples each; at the 0.1 % level for what is independent."""
    rng = np.random.default_rng(7)
    slow = summary([twin.sample_boxes(BOXES, WIDTH, HEIGHT, rng) for _ in range(SAMPLES)])
    samples = []
    for _ in range(SAMPLES):
        sample = sample_augmentation(BOXES, WIDTH, HEIGHT, rng, 6 / 7, 0.6, True)
        boxes = crop_resize(sample, (WIDTH, HEIGHT), (WIDTH, HEIGHT), 4096, False).boxes(BOXES[sample.kept], 4096)
        if sample.hflip:
            boxes[:, [0, 2]] = 1 - boxes[:, [2, 0]]
        large = (boxes[:, 2:] - boxes[:, :2]).min(1) > 0.01
        x1, y1, x2, y2 = sample.dst_rect
        samples.append((boxes[large], (x2 - x1) * (y2 - y1)))
    for what, values in summary(samples).items():
        actual, expected = np.round(values.astype(float), 4), np.round(slow[what], 4)  # ties must be ties
        grid = np.sort(np.concatenate([actual, expected]))
        ours = np.searchsorted(np.sort(actual), grid, "right") / len(actual)
        theirs = np.searchsorted(np.sort(expected), grid, "right") / len(expected)
        assert np.abs(ours - theirs).max() < 1.95 * np.sqrt(2 / SAMPLES), what


def test_colours_are_distributed_as_the_originals():
    """The mean and spread of a distorted grey ramp, over 2000 samples of each."""
    ramp = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[None, :, None], 3, 2) // np.array([1, 2, 4], np.uint8)
    rng = np.random.default_rng(3)
    slow = np.stack([twin.distort(ramp, *twin.sample_colours(rng)) for _ in range(2000)]).astype(float)
    fast = np.stack([distort(ramp, sample_distortion(rng)) for _ in range(2000)])
    assert np.abs(fast.mean(0) - slow.mean(0)).max() < 6
    assert np.abs(fast.std(0) - slow.std(0)).max() < 6
