"""Evaluation during training: the network in float16 or float32, scores and boxes in float32."""

import numpy as np
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
    model, seen, same = build_model("m2det-tiny", 1), set(), []
    for head in (*model.loc, *model.conf):
        head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))  # noqa: ARG005
    select_candidates = inference.select_candidates

    def watched(loc, conf, priors, threshold):
        found = select_candidates(loc, conf, priors, threshold)
        of_float32 = select_candidates(loc.float(), conf.float(), priors, threshold)
        same.extend(np.array_equal(*pair) for pair in zip(found, of_float32, strict=True))
        return found

    monkeypatch.setattr(inference, "select_candidates", watched)
    precision = Precision(settings(**changes).precision, torch.device("cpu"))
    split = PackedSplit(material[0], "val")
    metrics = validate(model, prior_boxes(model.config), split, precision.device, ALONE, precision, workers=0)
    assert seen == {dtype} and same == [True] * len(split) and metrics["AP"] >= 0
    assert not torch.is_autocast_enabled("cpu")
