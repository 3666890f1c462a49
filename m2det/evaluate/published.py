"""AP that others published of the paper's models on COCO, for a model of the same kind on the same kind of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COCO_IDS = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})  # of its 80 classes
ENDS = ("person", "toothbrush")  # the first and the last of them
MINIVAL = 5000  # images of minival2014, which are those of val2017
TEST_DEV, MINIVAL_2014 = "test-dev, 20,288 images", "minival2014, 5,000 images"
PAPER = "the paper, table 1, at one scale"


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        model: name of the model.
        ap: by metric, in [0,1].
        data: what it was measured on.
        source: who published it, and what differs from other results of that model.
        speed: images per second and device, where they were published with it.
    """

    model: str
    ap: Mapping[str, float]
    data: str
    source: str
    speed: str = ""


PUBLISHED = (
    Published(
        "m2det320-vgg16",
        {"AP": 0.332},
        MINIVAL_2014,
        "the original's issue 45: trained by its author with at most 32 images a step",
    ),
    Published("m2det512-vgg16", {"AP": 0.376}, TEST_DEV, PAPER, "18.0, Titan X"),
    Published(
        "m2det512-vgg16",
        {"AP": 0.378},
        MINIVAL_2014,
        "the original's issue 14: the weights that its authors released",
        "9.5, Titan X; 10.5, V100",
    ),
    Published(
        "m2det512-vgg16", {"AP": 0.304}, MINIVAL_2014, "Ascend ModelZoo: trained on 8 NPUs with 128 images a step"
    ),
    Published(
        "m2det512-vgg16",
        {"AP": 0.362},
        MINIVAL_2014,
        "MindSpore's model zoo: trained on 8 V100 with 56 images a step and clipped gradients",
    ),
    Published(
        "m2det800-vgg16",
        {"AP": 0.410, "AP50": 0.597, "AP75": 0.450, "APs": 0.221, "APm": 0.465, "APl": 0.538},
        TEST_DEV,
        PAPER,
        "11.8, Titan X",
    ),
)


def published_beside(
    card: Mapping[str, Any], classes: Sequence[str], category_ids: Sequence[int], images: int
) -> list[Published]:
    """Return the published results that a model's scores can be compared with; none where they cannot.

    They can where the network is one of the paper's, with or without SFAM, the classes are COCO's 80, and the images at
    least as many as minival2014's: AP on a small sample is no measure of AP on COCO.

    Args:
        card: the model's.
        classes: names of the validation data.
        category_ids: their ids.
        images: their number.
    """
    same_network = set(card["overrides"]) <= {"sfam"}
    is_coco = list(category_ids) == COCO_IDS and (classes[0], classes[-1]) == ENDS
    if not (same_network and is_coco and images >= MINIVAL):
        return []
    return [each for each in PUBLISHED if each.model == card["model"]]
