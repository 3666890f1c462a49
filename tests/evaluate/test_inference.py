"""Detection on a packed split: every image once and in order, whatever decodes and suppresses beside the network."""

import numpy as np
import pytest
import torch

from m2det.config import EvaluateParams
from m2det.data.dataloader import validation_loader
from m2det.data.dataset import PlainDataset
from m2det.data.packed.reader import PackedSplit
from m2det.evaluate.inference import coco_results_of_split
from m2det.model import build_model, prior_boxes

SETTINGS = EvaluateParams(
    split="val",
    batch_size=4,
    nms="linear",
    score_threshold=0.3,
    nms_iou=0.3,
    per_class=50,
    per_image=100,
    scorer="auto",
)
CPU = torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 4, 7, 14])
def test_the_loader_gives_each_image_once_and_in_order(material, workers, count):
    split, indices, seen = PackedSplit(material[0], "val"), list(range(count))[::-1], []
    plain = PlainDataset(split, 64)
    for batch in validation_loader(split, 64, indices, 4, workers, pin=False):
        seen += batch.index.tolist()
        assert len(batch.images) == len(batch.boxes) == len(batch.index)
        for image, index in zip(batch.images, batch.index.tolist(), strict=True):
            np.testing.assert_array_equal(image.permute(1, 2, 0), plain[index][0])
    assert seen == indices


def test_no_image_is_an_empty_result(material):
    model = build_model("m2det-tiny", 1).eval()
    split, priors = PackedSplit(material[0], "val"), prior_boxes("m2det-tiny")
    assert list(coco_results_of_split(model, priors, split, 96, CPU, SETTINGS, 0, [])) == []


def test_batches_and_threads_change_no_entry(material):
    torch.manual_seed(0)
    model = build_model("m2det-tiny", 1).eval()
    split, priors = PackedSplit(material[0], "val"), prior_boxes("m2det-tiny")

    def network(images):
        outputs = [model(image[None].contiguous()) for image in images]
        return {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}

    alone = SETTINGS.model_copy(update={"batch_size": 1})
    entries = list(coco_results_of_split(network, priors, split, 96, CPU, SETTINGS, 0, range(14)))
    assert sum(map(len, entries)) > 14
    assert [len({entry["image_id"] for entry in image}) for image in entries] == [1] * 14
    assert entries == list(coco_results_of_split(network, priors, split, 96, CPU, alone, 0, range(14)))
