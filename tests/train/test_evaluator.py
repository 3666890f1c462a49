"""Evaluation during training: the network in float16 or float32, scores and boxes in float32."""

import pytest
import torch

from m2det.data.packed.reader import PackedSplit
from m2det.distributed.group import ALONE
from m2det.evaluate import inference
from m2det.model import build_model, prior_boxes
from m2det.train.amp import Precision
from m2det.train.evaluator import validate
from tests.training import settings

PRECISIONS = [({"opt_level": "O0"}, torch.float32), ({"dtype": "bfloat16"}, torch.float32)]
PRECISIONS += [({"dtype": "float16"}, torch.float16)]


@pytest.mark.parametrize(("changes", "dtype"), PRECISIONS, ids=str)
def test_only_float16_is_evaluated_in_low_precision_and_scores_are_float32(material, monkeypatch, changes, dtype):
    model, seen, scored = build_model("m2det-tiny", 1), set(), set()
    for head in (*model.loc, *model.conf):
        head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))  # noqa: ARG005
    postprocess = inference.postprocess

    def watched(loc, conf, *arguments, **options):
        scored.update((loc.dtype, conf.dtype))
        return postprocess(loc, conf, *arguments, **options)

    monkeypatch.setattr(inference, "postprocess", watched)
    precision = Precision(settings(**changes).precision, torch.device("cpu"))
    split = PackedSplit(material[0], "val")
    metrics = validate(model, prior_boxes(model.config), split, precision.device, ALONE, precision)
    assert seen == {dtype} and scored == {torch.float32} and metrics["AP"] >= 0
    assert not torch.is_autocast_enabled("cpu")
