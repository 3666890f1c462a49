"""Augmented boxes stay on their objects, and equal seeds give equal samples."""

import numpy as np
import pytest

from m2det.data.augment import Placement, augment, draw_crop, resize_into


def marked_image() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two objects, each a rectangle of one colour on black."""
    image = np.zeros((120, 200, 3), np.uint8)
    boxes = np.array([[20, 30, 79, 89], [120, 20, 179, 109]], np.float32)
    for box, colour in zip(boxes.astype(int), ((255, 255, 255), (255, 255, 255)), strict=True):
        image[box[1] : box[3] + 1, box[0] : box[2] + 1] = colour
    return image, boxes, np.array([1, 2])


@pytest.mark.parametrize("seed", range(40))
def test_boxes_follow_their_objects(seed):
    image, boxes, labels = marked_image()
    rng = np.random.default_rng(seed)
    out, out_boxes, out_labels = augment(image, boxes, labels, 128, rng, 6 / 7, 0.5, True)
    assert out.shape == (128, 128, 3) and out.dtype == np.uint8 and len(out_boxes) == len(out_labels) > 0
    assert (out_boxes >= 0).all() and (out_boxes <= 1).all()
    for x1, y1, x2, y2 in out_boxes * 128:
        inside = out[round(y1) + 2 : round(y2) - 2, round(x1) + 2 : round(x2) - 2].astype(int).max(-1)
        if inside.size:  # white, as far as brightness and contrast left it; black and the mean are darker
            assert inside.min() > 60


def test_the_same_generator_gives_the_same_sample():
    first, second = (augment(*marked_image(), 96, np.random.default_rng(5), 1.0, 1.0, True) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_images_without_objects_are_only_resized():
    image, boxes, labels = marked_image()
    out, out_boxes, _ = augment(image, boxes[:0], labels[:0], 64, np.random.default_rng(0), 1.0, 1.0, True)
    np.testing.assert_array_equal(out, resize_into(image, boxes[:0], Placement(0, 0, 200, 120), 64)[0])
    assert out_boxes.shape == (0, 4)


def test_crops_keep_a_centre_and_the_drawn_shape():
    _, boxes, _ = marked_image()
    rng = np.random.default_rng(0)
    shapes = []
    for _ in range(300):
        crop, kept = draw_crop(boxes, 200, 120, rng, 6 / 7)
        assert kept.any() and 0 <= crop.left <= 200 - crop.width and 0 <= crop.top <= 120 - crop.height
        centres = (boxes[kept, :2] + boxes[kept, 2:]) / 2
        assert (centres > [crop.left, crop.top]).all()
        assert (centres < [crop.left + crop.width, crop.top + crop.height]).all()
        shapes.append((crop.width / 200) / (crop.height / 120))
    assert 0.45 < min(shapes) < 0.7 and 1.4 < max(shapes) < 2.2


def test_a_whole_image_maps_exactly():
    image, boxes, _ = marked_image()
    out, out_boxes = resize_into(image, boxes, Placement(0, 0, 200, 120), 200)
    np.testing.assert_allclose(out_boxes * [200, 120, 200, 120], boxes, atol=1e-3)
    assert out.shape == (200, 200, 3)
