"""Published scores stand beside those that can be compared with them, and beside no others."""

import pytest

from m2det.evaluate.published import COCO_IDS, ENDS, published_beside

NAMES = [ENDS[0], *(f"class {n}" for n in range(78)), ENDS[1]]
CARD = {"model": "m2det512-vgg16", "overrides": {"sfam": True}}


def test_a_model_of_the_paper_on_coco_has_them():
    found = published_beside(CARD, NAMES, COCO_IDS, 5000)
    assert [each.ap["AP"] for each in found] == [0.376, 0.378, 0.304, 0.362]
    assert len(COCO_IDS) == 80 and COCO_IDS[-1] == 90
    assert all(each.data and each.source for each in found)
    [large] = published_beside({"model": "m2det800-vgg16", "overrides": {}}, NAMES, COCO_IDS, 40_504)
    assert large.ap["AP50"] == 0.597 and "test-dev" in large.data


@pytest.mark.parametrize(
    "other",
    [
        {"images": 4952},
        {"classes": ["cat", *NAMES[1:]]},
        {"category_ids": list(range(1, 81))},
        {"classes": ENDS, "category_ids": [1, 90]},
        {"card": CARD | {"model": "m2det-tiny"}},
        {"card": CARD | {"overrides": {"sfam": True, "levels": 4}}},
    ],
)
def test_others_have_none(other):
    usual = {"card": CARD, "classes": NAMES, "category_ids": COCO_IDS, "images": 5000}
    assert published_beside(**usual) and not published_beside(**usual | other)
