"""A training step that does not log never waits for the device: no shape depends on values, no value is read."""

import pytest
import torch

from m2det.loss import MultiBoxLoss
from tests.static_shapes import StaticShapes, watched_steps
from tests.training import settings

STALLING = {
    "nonzero": lambda x: x.nonzero(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "a boolean mask": lambda x: x[x > 0],
    "item": lambda x: x.sum().item(),
    "unique": lambda x: x.unique(),
    "scatter_reduce": lambda x: x.scatter_reduce(0, torch.zeros(4, dtype=torch.int64), x, "amax"),
    "a sort of integers": lambda x: x.long().argsort(),
    "assigning by a mask": lambda x: x.clone().masked_fill_(x > 0, 1.0).__setitem__(x > 0, torch.ones(1)),
}


@pytest.mark.parametrize("name", STALLING)
def test_what_stalls_is_noticed(name):
    with pytest.raises(AssertionError), StaticShapes():
        STALLING[name](torch.arange(4.0))


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "multibox"},
        pytest.param({"max_grad_norm": 0.0, "ema_decay": 0.0}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "adamw", "weight_decay_norm_bias": False}, marks=pytest.mark.slow),
        {"loss_scale": "dynamic", "dtype": "bfloat16"},
        {"objective": "aligned", "microbatch": 2, "loss_normalization": "global"},
        pytest.param(
            {"objective": "multibox", "microbatch": 2, "loss_normalization": "global"}, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_a_step_has_fixed_shapes_and_waits_for_nothing(material, tmp_path, options):
    """With the moving average, clipping, the static scale, and the flag that skips a step."""
    params = settings(max_steps=2, evaluate_every=100, log_every=100, **options)
    assert watched_steps(material, tmp_path, params) == [1, 2]


def test_a_step_that_waited_would_be_noticed(material, tmp_path, monkeypatch):
    compute = MultiBoxLoss.compute

    def wait(self, *arguments):
        losses = compute(self, *arguments)
        return {**losses, "loc": losses["loc"] * losses["conf"].item()}

    monkeypatch.setattr(MultiBoxLoss, "compute", wait)
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        watched_steps(material, tmp_path, settings(max_steps=1, objective="multibox"))
