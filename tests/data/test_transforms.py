"""Augmented boxes stay on their objects, and equal seeds give equal samples."""

import cv2
import numpy as np
import pytest

from m2det.data import sampling
from m2det.data.crop_resize import crop_resize
from m2det.data.sampling import (
    UNCHANGED,
    Augmentation,
    Distortion,
    _max_iou,
    identity,
    sample_augmentation,
    sample_crop,
)
from m2det.data.transforms import apply, square_of_file
from m2det.model.preprocess import MEAN_BGR


def marked_image() -> tuple[np.ndarray, np.ndarray]:
    """Two objects, each a white rectangle on black."""
    image = np.zeros((120, 200, 3), np.uint8)
    boxes = np.array([[20, 30, 79, 89], [120, 20, 179, 109]], np.float32)
    for box in boxes.astype(int):
        image[box[1] : box[3] + 1, box[0] : box[2] + 1] = 255
    return image, boxes


@pytest.mark.parametrize("seed", range(40))
def test_boxes_follow_their_objects(seed):
    image, boxes = marked_image()
    sample = sample_augmentation(boxes, 200, 120, np.random.default_rng(seed), 6 / 7, 0.5, True)
    rects = crop_resize(sample, (200, 120), (200, 120), 128, False)
    out = np.empty((128, 128, 3), np.uint8)
    apply(image, rects, out, sample.colours, sample.hflip)
    visible = rects.boxes(boxes[sample.kept], 128)
    assert sample.kept.any() and (visible >= 0).all() and (visible <= 1).all()
    for x1, y1, x2, y2 in visible * 128:
        if sample.hflip:
            x1, x2 = 128 - x2, 128 - x1
        inside = out[round(y1) + 2 : round(y2) - 2, round(x1) + 2 : round(x2) - 2].astype(int).max(-1)
        if inside.size:  # white, as far as brightness and contrast left it; black and the mean are darker
            assert inside.min() > 60


def test_crops_keep_a_centre_and_the_sampled_shape():
    _, boxes = marked_image()
    rng = np.random.default_rng(0)
    shapes = []
    for _ in range(300):
        (x1, y1, x2, y2), kept = sample_crop(boxes, 200, 120, rng, 6 / 7)
        assert kept.any() and 0 <= x1 < x2 <= 200 and 0 <= y1 < y2 <= 120
        centres = (boxes[kept, :2] + boxes[kept, 2:]) / 2
        assert (centres > [x1, y1]).all()
        assert (centres < [x2, y2]).all()
        shapes.append(((x2 - x1) / 200) / ((y2 - y1) / 120))
    assert 0.45 < min(shapes) < 0.7 and 1.4 < max(shapes) < 2.2


def test_a_whole_image_maps_exactly():
    image, boxes = marked_image()
    rects = crop_resize(identity(200, 120), (200, 120), (200, 120), 200, False)
    np.testing.assert_allclose(rects.boxes(boxes, 200) * [200, 120, 200, 120], boxes, atol=1e-3)
    encoded = cv2.imencode(".png", image)[1].tobytes()
    square = square_of_file(encoded, "a", image, 200)
    np.testing.assert_array_equal(square, cv2.resize(image, (200, 200)))


@pytest.mark.parametrize(("width", "height"), [(101, 77), (31, 27)], ids=["made smaller", "made larger"])
def test_a_sample_written_into_a_slot_of_a_batch_changes_neither_its_neighbours_nor_the_image(width, height):
    """Odd sides, a destination whose rows are apart, flipped, all colours: where the pixels are fewer."""
    image, _ = marked_image()
    image[::2, ::3] += 40
    image.flags.writeable = False
    colours = Distortion(np.arange(256, dtype=np.uint8)[::-1].copy(), np.full(256, 9, np.uint8), 7)
    sample = Augmentation((3, 5, 3 + width, 5 + height), (0.21, 0.33, 0.72, 0.78), np.ones(0, bool))
    rects = crop_resize(sample, (200, 120), (200, 120), 99, False)
    batch = np.full((3, 99, 99, 3), 1, np.uint8)
    apply(image, rects, batch[1], colours, hflip=True)
    alone = np.empty((99, 99, 3), np.uint8)
    apply(image, rects, alone, colours)
    assert (batch[[0, 2]] == 1).all()
    np.testing.assert_array_equal(batch[1], alone[:, ::-1])
    x0, y0, x1, y1 = rects.dst_rect
    background = np.ones((99, 99), bool)
    background[y0:y1, x0:x1] = False
    assert background.any() and (alone[background] == MEAN_BGR).all()

    def coloured(picture: np.ndarray) -> np.ndarray:
        hsv = cv2.cvtColor(255 - picture, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + 7) % 180
        hsv[..., 1] = 9
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)

    def resized(picture: np.ndarray) -> np.ndarray:
        return cv2.resize(picture, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)

    crop = image[5 : 5 + height, 3 : 3 + width]
    fewer_before = width * height < (x1 - x0) * (y1 - y0)
    np.testing.assert_array_equal(
        alone[y0:y1, x0:x1], resized(coloured(crop)) if fewer_before else coloured(resized(crop))
    )


@pytest.mark.parametrize("shape", [(640, 480), (61, 400), (9, 9), (1, 1)])
def test_no_crop_exceeds_the_upper_bound_of_the_iou(shape):
    """The best overlap of 3000 smallest crops with a box they lie in or around stays under the bound."""
    width, height = shape
    rng = np.random.default_rng(0)
    for share in (0.001, 0.02, 0.08, 0.3):
        side = np.sqrt(share)
        box_width, box_height = side * width, side * height
        ratio = np.sqrt(rng.uniform(0.5, 2.0, 3000))
        w, h = (0.3 * ratio * width).astype(int), (0.3 / ratio * height).astype(int)
        inter = np.minimum(w, box_width) * np.minimum(h, box_height)
        union = box_width * box_height + w * h - inter
        assert (inter / union).max() <= _max_iou(box_width * box_height, width, height) + 1e-9


def test_a_crop_that_is_rare_but_possible_is_sampled(monkeypatch):
    """Of an IoU of 0.2, for a box as large as a quarter of the smallest crop."""
    monkeypatch.setattr(sampling, "_MIN_IOUS", (0.2,))
    box = np.array([[400, 400, 550, 550]], np.float32)
    rng = np.random.default_rng(0)
    crops = [sample_crop(box, 1000, 1000, rng, 0.99)[0] for _ in range(50)]
    assert sum(x2 - x1 < 1000 for x1, _, x2, _ in crops) > 25


@pytest.mark.parametrize("stored", [(1000, 700), (640, 448), (333, 233)])
def test_a_smaller_image_shows_the_same_in_the_same_place(stored):
    """Records smaller than their annotation, read at a fraction: a box's corner stays within half a pixel."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        boxes = np.array([[300, 200, 520, 430]], np.float32)
        sample = sample_augmentation(boxes, 1000, 700, rng, 1.0, 0.6, False)
        whole = crop_resize(sample, (1000, 700), (1000, 700), 96, False)
        small = crop_resize(sample, (1000, 700), stored, 96, True)
        # half a pixel of the output, and one of the image as decoded (two edges, each rounded)
        x1, y1, x2, y2 = sample.src_rect
        read = max(small.scale[0] / (x2 - x1), small.scale[1] / (y2 - y1))
        np.testing.assert_allclose(small.boxes(boxes, 96), whole.boxes(boxes, 96), atol=0.5 / 96 + read)
        assert small.dst_rect == whole.dst_rect and small.src_rect[2] <= -(-stored[0] // small.reduction)


def test_an_image_is_reduced_only_while_each_output_pixel_has_one():
    def reduction(side: int, share: float = 1.0) -> int:
        sample = Augmentation((0, 0, side, side), (0, 0, share, share), np.ones(0, bool))
        return crop_resize(sample, (side, side), (side, side), 100, True).reduction

    assert [reduction(side) for side in (99, 199, 200, 399, 400, 800, 5000)] == [1, 1, 1, 2, 2, 4, 8]
    assert reduction(150, 0.5) == 2
    assert UNCHANGED.values is None
