"""The detections that pictures show are right or wrong as COCO counts them."""

import pytest

from m2det.evaluate.difficult import without_difficult
from m2det.evaluate.error_kinds import match_detections
from m2det.evaluate.reviews import review_images

CAT, DOG = 4, 9  # category ids


def truth_of(*annotations):
    """Images 3, 5 and 8, and annotations (image, category, xywh, what else)."""
    return {
        "images": [{"id": number, "width": 200, "height": 200} for number in (3, 5, 8)],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": c, "bbox": box, **more}
            for n, (image, c, box, more) in enumerate(annotations, 1)
        ],
    }


def reviews_of(truth, *detections, score=0.5):
    """Reviews of detections (image, category, xywh, score)."""
    keys = ("image_id", "category_id", "bbox", "score")
    results = [dict(zip(keys, row, strict=True)) for row in detections]
    return review_images(match_detections(*without_difficult(truth, results)), truth, [3, 5, 8], score)


def test_each_object_is_found_once():
    truth = truth_of((5, CAT, [0, 0, 10, 10], {}), (5, CAT, [50, 50, 20, 20], {}))
    rows = [(5, CAT, [0, 0, 10, 10], 0.9), (5, CAT, [0, 0, 10, 9], 0.8), (5, DOG, [50, 50, 20, 20], 0.7)]
    nothing, item, _ = reviews_of(truth, *rows)
    assert item.correct.tolist() == [True, False, False] and item.detected.tolist() == [True, False]
    assert item.detections.tolist()[2] == [50, 50, 69, 69, 0.7, 2] and item.objects.tolist()[0] == [0, 0, 9, 9, 1]
    assert (item.f1, item.summary) == (pytest.approx(2 / 5), "1 of 2 found, 2 wrong")
    assert nothing.f1 == 1 and nothing.detections.shape == (0, 6) and nothing.objects.shape == (0, 5)


def test_detections_below_the_score_find_nothing():
    truth = truth_of((3, CAT, [0, 0, 10, 10], {}), (8, DOG, [5, 5, 10, 10], {}))
    rows = [(3, CAT, [0, 0, 10, 10], 0.4), (8, DOG, [5, 5, 10, 10], 0.5)]
    assert [item.summary for item in reviews_of(truth, *rows)] == [
        "0 of 1 found, 0 wrong",
        "0 of 0 found, 0 wrong",
        "1 of 1 found, 0 wrong",
    ]
    assert reviews_of(truth, *rows, score=0.3)[0].summary == "1 of 1 found, 0 wrong"


@pytest.mark.parametrize("kind", [{"iscrowd": 1}, {"voc_difficult": 1}])
def test_what_does_not_count_is_neither_missed_nor_are_its_detections_wrong(kind):
    truth = truth_of((8, CAT, [0, 0, 10, 10], {"voc_difficult": 0}), (8, DOG, [100, 100, 60, 60], kind))
    rows = [(8, DOG, [100, 100, 60, 50], 0.9), (8, CAT, [101, 101, 60, 50], 0.8), (8, CAT, [0, 0, 10, 10], 0.7)]
    *_, item = reviews_of(truth, *rows)
    assert item.ignored.tolist() == [[100, 100, 159, 159, 2]]
    assert item.summary == "1 of 1 found, 1 wrong" and item.correct.tolist() == [False, True]
