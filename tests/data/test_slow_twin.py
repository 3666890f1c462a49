"""What is drawn, and what becomes of it, is what the original's steps give: one by one, and in distribution."""

import cv2
import numpy as np
import pytest

from m2det.data.sampling import draw_distortion, draw_plan
from m2det.data.transforms import UNCHANGED, distort, render, view_of
from tests.data import slow_twin as twin

SIZE = 128
WIDTH, HEIGHT = 427, 320
BOXES = np.array([[40, 60, 200, 250], [180, 90, 260, 150], [300, 10, 420, 300], [10, 280, 60, 310]], np.float32)
DRAWS = 2000


def photograph() -> np.ndarray:
    """Smooth, as photographs are: both ways resample it, at places half a pixel apart."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("seed", range(30))
def test_one_resampling_is_the_originals_steps(seed):
    """Same drawn parameters, same boxes and pixels within half a pixel, exactly without a canvas."""
    image = photograph()
    plan = draw_plan(BOXES, WIDTH, HEIGHT, np.random.default_rng(seed), 6 / 7, 0.6, True)
    place = plan.place
    roi = np.array([place.left, place.top, place.left + place.width, place.top + place.height])
    slow, slow_boxes = image, BOXES
    if (place.width, place.height) != (WIDTH, HEIGHT):
        slow, slow_boxes = twin.crop(image, BOXES, roi)
    if place.x_share < 1 or place.y_share < 1:
        w, h = round(place.width / place.x_share), round(place.height / place.y_share)
        slow, slow_boxes = twin.expand(slow, slow_boxes, round(place.x * w), round(place.y * h), w, h)
    if plan.flip:
        slow, slow_boxes = twin.mirror(slow, slow_boxes)
    slow, slow_boxes = twin.finish(slow, slow_boxes, SIZE)

    view = view_of(place, (WIDTH, HEIGHT), (WIDTH, HEIGHT), SIZE, False)
    fast = np.empty((SIZE, SIZE, 3), np.uint8)
    render(image, view, fast, UNCHANGED, plan.flip)
    fast_boxes = view.boxes(BOXES[plan.kept], SIZE)
    if plan.flip:
        fast_boxes[:, [0, 2]] = 1 - fast_boxes[:, [2, 0]]
    np.testing.assert_allclose(fast_boxes * SIZE, slow_boxes * SIZE, atol=0.8)  # half a pixel, and a canvas's rounding
    x0, y0, x1, y1 = view.window
    if plan.flip:
        x0, x1 = SIZE - x1, SIZE - x0
    inner = (slice(y0 + 2, y1 - 2), slice(x0 + 2, x1 - 2))
    if place.x_share == place.y_share == 1:
        assert np.abs(fast.astype(int) - slow).max() <= 1
    else:  # the canvas is placed in whole pixels before it is made small, or after: they lie half a pixel apart
        around = np.ones((3, 3), np.uint8)
        low, high = cv2.erode(slow, around).astype(int), cv2.dilate(slow, around).astype(int)
        assert ((fast >= low - 4) & (fast <= high + 4))[inner].mean() > 0.98


@pytest.mark.parametrize("seed", range(20))
def test_tables_are_the_originals_arithmetic(seed):
    colours = draw_distortion(np.random.default_rng(seed))
    image = photograph()
    rng = np.random.default_rng(seed)
    drawn = rng.random(4) < 0.5  # the same draws, in the order that draw_distortion takes them
    ranges = ((-32, 32), (0.5, 1.5), None, (0.5, 1.5))
    values = []
    for wanted, ends in zip(drawn, ranges, strict=True):
        draw = rng.uniform(*ends) if wanted and ends else None
        values.append(int(rng.integers(-18, 19)) if wanted and not ends else draw)
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
    slow = summary([twin.sample_boxes(BOXES, WIDTH, HEIGHT, rng) for _ in range(DRAWS)])
    samples = []
    for _ in range(DRAWS):
        plan = draw_plan(BOXES, WIDTH, HEIGHT, rng, 6 / 7, 0.6, True)
        view = view_of(plan.place, (WIDTH, HEIGHT), (WIDTH, HEIGHT), 4096, False)
        boxes = view.boxes(BOXES[plan.kept], 4096)
        if plan.flip:
            boxes[:, [0, 2]] = 1 - boxes[:, [2, 0]]
        large = (boxes[:, 2:] - boxes[:, :2]).min(1) > 0.01
        samples.append((boxes[large], plan.place.x_share * plan.place.y_share))
    for what, found in summary(samples).items():
        found, expected = np.round(found.astype(float), 4), np.round(slow[what], 4)  # ties must be ties
        grid = np.sort(np.concatenate([found, expected]))
        ours = np.searchsorted(np.sort(found), grid, "right") / len(found)
        theirs = np.searchsorted(np.sort(expected), grid, "right") / len(expected)
        assert np.abs(ours - theirs).max() < 1.95 * np.sqrt(2 / DRAWS), what


def test_colours_are_distributed_as_the_originals():
    """The mean and spread of what a grey ramp becomes, over 2000 draws of each."""
    ramp = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[None, :, None], 3, 2) // np.array([1, 2, 4], np.uint8)
    rng = np.random.default_rng(3)
    slow = np.stack([twin.distort(ramp, *twin.draw_colours(rng)) for _ in range(2000)]).astype(float)
    fast = np.stack([distort(ramp, draw_distortion(rng)) for _ in range(2000)])
    assert np.abs(fast.mean(0) - slow.mean(0)).max() < 6
    assert np.abs(fast.std(0) - slow.std(0)).max() < 6
