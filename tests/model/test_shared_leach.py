"""The leach that all levels share: computed once, a training step leaves what the original's 8 calls leave."""

import copy
from dataclasses import replace

import pytest
import torch

from m2det.config import TrainParams
from m2det.config.schema import defaults
from m2det.model import M2Det, build_model
from m2det.model.mlfpn import BasicConv, SharedConv
from m2det.train.optim import train_mode

LEVELS = 8


def once_and_each(**overrides) -> tuple[M2Det, M2Det]:
    """The network, and the same one that calls a plain leach in every level, as the original does."""
    torch.manual_seed(0)
    options = {"levels": LEVELS, "planes": 16, "fused": (16, 16)} | overrides
    once = build_model("m2det-tiny", 3, **options).double()
    each = copy.deepcopy(once)
    leach = BasicConv(32, 8, 1).double()
    leach.load_state_dict(once.leach[0].state_dict())
    leach.set_momentum(once.config.bn_momentum)
    each.leach = torch.nn.ModuleList([leach] * LEVELS)
    each.config = replace(once.config, shared=False)
    return once, each


def two_steps(model: M2Det) -> list[torch.Tensor]:
    """Outputs of two forward passes, whose gradients add up."""
    images = torch.randn(2, 2, 3, 96, 96, generator=torch.Generator().manual_seed(1)).double()
    outputs = []
    for batch in images:
        outputs += model(batch).values()
        sum(output.square().mean() for output in outputs[-2:]).backward()
    return outputs


@pytest.mark.parametrize("momentum", [0.01, 0.1])
def test_a_step_leaves_what_a_call_per_level_leaves(momentum):
    once, each = once_and_each(bn_momentum=momentum)
    assert all(torch.equal(a, b) for a, b in zip(two_steps(once), two_steps(each), strict=True))
    state, expected = once.state_dict(), each.state_dict()
    assert list(state) == list(expected)
    assert state["leach.0.bn.num_batches_tracked"] == 2 * LEVELS
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=1e-12, atol=1e-12, msg=key)
    for (key, a), b in zip(once.named_parameters(), each.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=key)


def test_frozen_statistics_and_evaluation_leave_statistics_and_counter():
    once, each = once_and_each()
    before = copy.deepcopy(once.state_dict())
    frozen = TrainParams.model_validate(defaults()["train"] | {"freeze_bn_stats": True})
    for set_mode in (lambda model: train_mode(model, frozen), torch.nn.Module.eval):
        set_mode(once), set_mode(each)
        assert all(torch.equal(a, b) for a, b in zip(two_steps(once), two_steps(each), strict=True))
        assert all(torch.equal(value, before[key]) for key, value in once.state_dict().items())


def test_layers_of_their_own_are_called_once_each():
    model = build_model("m2det-tiny", 3, levels=3, planes=16, fused=(16, 16), shared=False)
    calls = []
    for level, leach in enumerate(model.leach):
        leach.register_forward_hook(lambda *_, level=level: calls.append(level))
    model(torch.randn(2, 3, 96, 96))
    assert calls == [0, 1, 2]
    assert all(leach.bn.num_batches_tracked == 1 and leach.bn.momentum == 0.1 for leach in model.leach)


def test_the_counter_follows_when_compiled_and_in_low_precision():
    layer = SharedConv(4, 2, 1, calls=LEVELS)
    plain = copy.deepcopy(layer)
    compiled, images = torch.compile(layer, backend="aot_eager"), torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        compiled(images), plain(images)
    assert layer.bn.num_batches_tracked == plain.bn.num_batches_tracked == LEVELS
    torch.testing.assert_close(layer.bn.running_mean, plain.bn.running_mean)


def test_synchronized_normalization_keeps_momentum_and_layer():
    model = build_model("m2det-tiny", 3, levels=3)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted.leach[0].bn, torch.nn.SyncBatchNorm) and converted.leach[2] is converted.leach[0]
    assert converted.leach[0].bn.momentum == pytest.approx(1 - 0.9**3)
