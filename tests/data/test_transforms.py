"""Augmented boxes stay on their objects, and equal seeds give equal samples."""

import cv2
import numpy as np
import pytest

from m2det.data import sampling as plan
from m2det.data.sampling import _most_iou, draw_crop, draw_plan
from m2det.data.transforms import UNCHANGED, Distortion, Placement, render, resize_into, view_of
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
    plan = draw_plan(boxes, 200, 120, np.random.default_rng(seed), 6 / 7, 0.5, True)
    view = view_of(plan.place, (200, 120), (200, 120), 128, False)
    out = np.empty((128, 128, 3), np.uint8)
    render(image, view, out, plan.colours, plan.flip)
    found = view.boxes(boxes[plan.kept], 128)
    assert plan.kept.any() and (found >= 0).all() and (found <= 1).all()
    for x1, y1, x2, y2 in found * 128:
        if plan.flip:
            x1, x2 = 128 - x2, 128 - x1
        inside = out[round(y1) + 2 : round(y2) - 2, round(x1) + 2 : round(x2) - 2].astype(int).max(-1)
        if inside.size:  # white, as far as brightness and contrast left it; black and the mean are darker
            assert inside.min() > 60


def test_crops_keep_a_centre_and_the_drawn_shape():
    _, boxes = marked_image()
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
    image, boxes = marked_image()
    out, out_boxes = resize_into(image, boxes, Placement(0, 0, 200, 120), 200)
    np.testing.assert_allclose(out_boxes * [200, 120, 200, 120], boxes, atol=1e-3)
    assert out.shape == (200, 200, 3)


@pytest.mark.parametrize(("width", "height"), [(101, 77), (31, 27)], ids=["made smaller", "made larger"])
def test_what_is_drawn_into_a_slot_of_a_batch_leaves_its_neighbours_and_the_image_alone(width, height):
    """Odd sides, a window whose rows are apart, flipped, all colours: where the pixels are fewer."""
    image, _ = marked_image()
    image[::2, ::3] += 40
    image.flags.writeable = False
    colours = Distortion(np.arange(256, dtype=np.uint8)[::-1].copy(), np.full(256, 9, np.uint8), 7)
    view = view_of(Placement(3, 5, width, height, 0.21, 0.33, 0.51, 0.45), (200, 120), (200, 120), 99, False)
    batch = np.full((3, 99, 99, 3), 1, np.uint8)
    render(image, view, batch[1], colours, True)
    alone = np.empty((99, 99, 3), np.uint8)
    render(image, view, alone, colours)
    assert (batch[[0, 2]] == 1).all()
    np.testing.assert_array_equal(batch[1], alone[:, ::-1])
    x0, y0, x1, y1 = view.window
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

    seen = image[5 : 5 + height, 3 : 3 + width]
    fewer_before = width * height < (x1 - x0) * (y1 - y0)
    np.testing.assert_array_equal(
        alone[y0:y1, x0:x1], resized(coloured(seen)) if fewer_before else coloured(resized(seen))
    )


@pytest.mark.parametrize("shape", [(640, 480), (61, 400), (9, 9), (1, 1)])
def test_a_crop_that_is_not_tried_could_not_be(shape):
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
        assert (inter / union).max() <= _most_iou(box_width * box_height, width, height) + 1e-9


def test_a_crop_that_is_rare_but_possible_is_found(monkeypatch):
    """Of an overlap of 0.2, for a box as large as a quarter of the least crop."""
    monkeypatch.setattr(plan, "_LEAST_IOUS", (0.2,))
    box = np.array([[400, 400, 550, 550]], np.float32)
    rng = np.random.default_rng(0)
    crops = [draw_crop(box, 1000, 1000, rng, 0.99)[0] for _ in range(50)]
    assert sum(crop.width < 1000 for crop in crops) > 25


@pytest.mark.parametrize("stored", [(1000, 700), (640, 448), (333, 233)])
def test_a_smaller_image_shows_the_same_in_the_same_place(stored):
    """Records smaller than their annotation, read at a fraction: a box's corner stays within half a pixel."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        boxes = np.array([[300, 200, 520, 430]], np.float32)
        plan = draw_plan(boxes, 1000, 700, rng, 1.0, 0.6, False)
        whole = view_of(plan.place, (1000, 700), (1000, 700), 96, False)
        small = view_of(plan.place, (1000, 700), stored, 96, True)
        # half a pixel of the output, and one of the image as read (two edges, each rounded), as large as it is there
        read = max(small.scale[0] / plan.place.width, small.scale[1] / plan.place.height)
        np.testing.assert_allclose(small.boxes(boxes, 96), whole.boxes(boxes, 96), atol=0.5 / 96 + read)
        assert small.window == whole.window and small.part[2] <= -(-stored[0] // small.reduction)


def test_an_image_is_reduced_only_while_a_pixel_is_left_for_each():
    def reduction(side: int, share: float = 1.0) -> int:
        place = Placement(0, 0, side, side, 0, 0, share, share)
        return view_of(place, (side, side), (side, side), 100, True).reduction

    assert [reduction(side) for side in (99, 199, 200, 399, 400, 800, 5000)] == [1, 1, 2, 2, 4, 8, 8]
    assert reduction(150, 0.5) == 2
    assert UNCHANGED.values is None
