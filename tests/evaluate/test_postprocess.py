"""From raw outputs to detections: what is kept, in which order, and in whose pixels."""

import numpy as np
import pytest
import torch

from m2det.boxes import encode_xyxy_to_offsets
from m2det.evaluate import postprocess
from m2det.evaluate.candidates import select_candidates
from m2det.evaluate.coco_results import coco_results
from m2det.evaluate.postprocess import suppress
from m2det.model import prior_boxes
from tests.evaluate.slow_postprocess import slow_postprocess

PRIORS = prior_boxes("m2det-tiny")


def outputs(objects: list[tuple[int, list[float], int, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw outputs that hold (prior, xyxy in [0,1], label, probability)."""
    loc, probability = torch.zeros(len(PRIORS), 4), torch.full((len(PRIORS), 4), 1e-6)
    probability[:, 0] = 1.0
    for prior, box, label, score in objects:
        loc[prior] = encode_xyxy_to_offsets(torch.tensor(box), PRIORS[prior])
        probability[prior, 0] = 1 - score
        probability[prior, label] = score
    return loc, probability.log()


def test_boxes_come_out_in_the_pixels_of_the_image():
    loc, conf = outputs([(100, [0.1, 0.2, 0.5, 0.6], 2, 0.9)])
    found = postprocess(loc, conf, PRIORS, (200, 100))
    np.testing.assert_allclose(found, [[20, 20, 100, 60, 0.9, 2]], rtol=1e-3)
    assert found.dtype == np.float32


def test_nothing_above_the_threshold_is_an_empty_result():
    loc, conf = outputs([])
    for nms in ("hard", "linear", "gaussian"):
        assert postprocess(loc, conf, PRIORS, (200, 100), nms, score_threshold=0.5).shape == (0, 6)


def test_nms_acts_within_a_class_only():
    box = [0.2, 0.2, 0.6, 0.6]
    loc, conf = outputs([(100, box, 1, 0.9), (101, box, 1, 0.8), (102, box, 2, 0.7)])
    hard = postprocess(loc, conf, PRIORS, (96, 96), "hard", nms_iou=0.5)
    assert hard[:, 5].tolist() == [1, 2] and hard[:, 4].tolist() == pytest.approx([0.9, 0.7], rel=1e-3)
    linear = postprocess(loc, conf, PRIORS, (96, 96), "linear")
    assert (linear[:, 5] == 2).sum() == 1 and linear[0, 4] == pytest.approx(0.9, rel=1e-3)
    assert linear[1:-1, 4].max(initial=0) < 0.01, "a duplicate loses its score"


def test_limits_per_class_and_per_image():
    spots = [[x / 10, y / 10, x / 10 + 0.08, y / 10 + 0.08] for x in range(5) for y in range(5)]
    loc, conf = outputs([(i * 7, box, 1 + i % 2, 0.5 + i / 100) for i, box in enumerate(spots)])
    assert len(postprocess(loc, conf, PRIORS, (500, 500))) == 25
    few = postprocess(loc, conf, PRIORS, (500, 500), per_class=4)
    assert [(few[:, 5] == label).sum() for label in (1, 2)] == [4, 4]
    best = postprocess(loc, conf, PRIORS, (500, 500), per_image=3)
    assert best[:, 4].tolist() == pytest.approx([0.74, 0.73, 0.72], rel=1e-3)


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
@pytest.mark.parametrize("share", [0, 1e-4, 0.01, 0.5])
def test_the_boxes_of_each_class_by_itself_bit_for_bit(method, share):
    rng = torch.Generator().manual_seed(7)
    loc = torch.randn(3, len(PRIORS), 4, generator=rng)
    conf = torch.randn(3, len(PRIORS), 21, generator=rng).round(decimals=1)  # with many ties
    threshold = torch.quantile(conf.softmax(-1)[..., 1:].flatten(), 1 - share).item()
    candidates = select_candidates(loc, conf, PRIORS, threshold)
    for i in range(3):
        size, options = (640 - 100 * i, 427), (method, threshold, 0.45, 10, 30 * i)
        expected = slow_postprocess(loc[i], conf[i], PRIORS, size, *options)
        np.testing.assert_array_equal(postprocess(loc[i], conf[i], PRIORS, size, *options), expected)
        np.testing.assert_array_equal(suppress(candidates[i], size, method, 0.45, 10, 30 * i), expected)
        assert bool(len(expected)) == bool(share)


def test_an_image_without_candidates_between_others_has_none():
    conf = torch.zeros(3, len(PRIORS), 3)
    conf[..., 0] = 20
    conf[0, 5, 1] = conf[2, 7, 2] = 30
    found = select_candidates(torch.zeros(3, len(PRIORS), 4), conf, PRIORS, 0.5)
    assert [rows[:, 5].tolist() for rows in found] == [[1], [], [2]]


def test_coco_results_are_clipped_and_count_pixels():
    entries = coco_results(7, (100, 50), np.array([[-5, 10, 20, 80, 0.5, 2]], np.float32), [3, 9])
    assert entries == [{"image_id": 7, "category_id": 9, "bbox": [0.0, 10.0, 21.0, 40.0], "score": 0.5}]
