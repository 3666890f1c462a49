"""A model that leaves hundreds of boxes on an image is told at its evaluation."""

import pytest
import torch

from m2det.distributed.group import Group
from m2det.evaluate.crowding import describe_crowding
from m2det.evaluate.postprocess import viewing_params
from m2det.evaluate.rank import detect_split
from m2det.model import build_model
from m2det.model.model_file import save_trained
from tests.training import settings

ALL_KEPT = viewing_params(0.5).model_copy(update={"per_image": 0, "per_class": 1000})


def images(boxes, count=4, score=0.5):
    return [[{"score": score}] * boxes + [{"score": 0.4}] * 1000] * count


@pytest.mark.parametrize(
    ("boxes", "objects", "limits"),
    [(200, 5, {}), (350, 200, {}), (90, 5, {"per_image": 100}), (9, 1, {"per_class": 5}), (0, 0, {})],
)
def test_so_many_boxes_may_be_right(boxes, objects, limits):
    assert describe_crowding(images(boxes), 4 * objects, 2, ALL_KEPT.model_copy(update=limits)) == []


@pytest.mark.parametrize(
    ("boxes", "objects", "limits"),
    [(201, 5, {}), (350, 170, {}), (91, 5, {"per_image": 100}), (10, 1, {"per_class": 5})],
)
def test_too_many_boxes_are_one_sentence_with_the_number(boxes, objects, limits):
    [sentence] = describe_crowding(images(boxes), 4 * objects, 2, ALL_KEPT.model_copy(update=limits))
    assert sentence.startswith(
        f"warning: the model leaves {boxes} boxes with a score of 0.5 or more on an image, where "
    )
    assert f"where {objects}.0 objects are annotated" in sentence and "train for more epochs" in sentence


def test_the_stage_evaluate_says_so(material, tmp_path, capsys):
    model = build_model("m2det-tiny", 1)
    for head in model.conf:
        torch.nn.init.constant_(head.bias.view(-1, 2)[:, 1], 20.0)  # an object everywhere
    card = {"model": "m2det-tiny", "overrides": {}, "classes": ["square"], "category_ids": [1]}
    save_trained(tmp_path / "model.safetensors", model, card)
    detect_split(settings(), material[0], tmp_path / "model.safetensors", tmp_path / "found.json", Group())
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].endswith(" detections on 14 images") and lines[-1].startswith("warning: the model leaves ")
