"""The loss scale changes nothing but what it is for, levels that are not offered say why, apex is Ascend's or none."""

import copy
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from m2det import device
from m2det.config import PrecisionParams
from m2det.errors import InputError
from m2det.train.amp import MIN_LOSS_SCALE, Precision
from m2det.train.build import make_precision
from m2det.train.optim import make_optimizer
from tests.training import settings as train_settings

CPU = torch.device("cpu")


def settings(**changes) -> PrecisionParams:
    base = {"opt_level": "O1", "loss_scale": 32.0, "dtype": "bfloat16", "backend": "native"}
    return PrecisionParams(**base | changes)


def steps(precision, gradients, skips=None):
    """A parameter of 1 under SGD with momentum, whose losses have these gradients; its value after each step."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], 0.1, 0.9, fused=True)
    values = []
    for i, gradient in enumerate(gradients):
        optimizer.zero_grad()
        precision.backward((weight * gradient).sum())
        precision.step(optimizer, 0.0, torch.tensor(bool(skips and skips[i])))
        values.append(weight[0].item())
    return values


GRADIENTS = [0.5, 0.25, 1.0, -0.125]


@pytest.mark.parametrize("changes", [{}, {"loss_scale": "dynamic"}, {"opt_level": "O0"}], ids=str)
def test_a_scale_that_is_a_power_of_two_changes_no_bit(changes):
    weight = nn.Parameter(torch.ones(3))
    plain = torch.optim.SGD([weight], 0.1, 0.9, fused=True)
    wanted = []
    for gradient in GRADIENTS:
        weight.grad = torch.full((3,), gradient)
        plain.step()
        wanted.append(weight[0].item())
    assert steps(Precision(settings(**changes), CPU), GRADIENTS) == wanted


def test_static_never_leaves_a_step_out_and_dynamic_halves_and_does():
    """As apex: an infinite gradient under a static scale goes into the weights, and the checks of those say so."""
    static, dynamic = (Precision(settings(loss_scale=scale), CPU) for scale in (32.0, "dynamic"))
    gradients = [0.5, float("inf"), 0.5]
    assert not torch.tensor(steps(static, gradients)[1]).isfinite()
    before = dynamic.loss_scale()
    values = steps(dynamic, gradients)
    assert values[1] == values[0] and values[2] < values[1]
    assert dynamic.loss_scale() == before / 2


@pytest.mark.parametrize("scale", [32.0, "dynamic"])
def test_skip_leaves_weights_and_momentum_alone(scale):
    precision = Precision(settings(loss_scale=scale), CPU)
    with_gap = steps(precision, [0.5, 1.0, 0.25], [False, True, False])
    without = steps(Precision(settings(loss_scale=scale), CPU), [0.5, 0.25])
    assert with_gap == [without[0], without[0], without[1]]


def test_skip_where_the_optimizer_cannot_leave_a_step_out(monkeypatch):
    """As on an NPU: the weights are put back."""
    monkeypatch.setitem(device.TRAITS, "cpu", replace(device.TRAITS["cpu"], fused_supports_found_inf=False))
    precision = Precision(settings(), CPU)
    values = steps(precision, [0.5, float("nan"), 0.25], [False, True, True])
    assert values == [values[0]] * 3 and values[0] < 1


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_overflow_in_the_first_step_leaves_nothing_behind(name):
    """torch's fused SGD would begin with momentum that nobody has set."""
    model = nn.Linear(1000, 100)
    optimizer = make_optimizer(model, train_settings(optimizer=name).train, 0.1)
    clean = copy.deepcopy(optimizer.state_dict()), [p.clone() for p in model.parameters()]
    precision = Precision(settings(loss_scale="dynamic"), CPU)
    precision.backward(sum((p * float("inf")).sum() for p in model.parameters()))
    precision.step(optimizer, 0.0, torch.tensor(False))
    for before, parameter in zip(clean[1], model.parameters(), strict=True):
        assert torch.equal(before, parameter)
        assert all(not value.any() for value in optimizer.state[parameter].values())


def test_the_dynamic_scale_resumes():
    precision = Precision(settings(loss_scale="dynamic"), CPU)
    steps(precision, [0.5, float("inf"), 0.5])
    other = Precision(settings(loss_scale="dynamic"), CPU)
    other.load_state_dict(precision.state_dict())
    assert other.state_dict() == precision.state_dict() and other.loss_scale() == precision.loss_scale()


def test_a_scale_that_fell_to_nothing_is_an_error():
    precision = Precision(settings(loss_scale="dynamic"), CPU)
    precision.load_state_dict({**precision.state_dict(), "scale": MIN_LOSS_SCALE})
    precision.loss_scale()
    steps(precision, [float("nan")])
    with pytest.raises(InputError, match="gradients overflow with every scale"):
        precision.loss_scale()


@pytest.mark.parametrize("level", ["O2", "O3"])
def test_a_level_that_is_not_offered_says_why(level):
    with pytest.raises(ValidationError, match=f"'{level}' is not offered: it .*; use 'O1'"):
        settings(opt_level=level)


def test_o1_is_half_in_the_network_and_float32_elsewhere():
    """What runs in which type: convolutions in half, weights and their gradients in float32, upsampling as it comes."""
    from m2det.model import build_model

    model = build_model("m2det-tiny", 3, sfam=True)
    seen: dict[str, set[torch.dtype]] = {}

    class Look(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            if isinstance(result, torch.Tensor):
                seen.setdefault(function.overloadpacket.__name__, set()).add(result.dtype)
            return result

    precision = Precision(settings(), CPU)
    with Look(), precision.autocast():
        outputs = model(torch.randn(2, 3, 96, 96))
    assert seen["convolution"] == {torch.bfloat16} == seen["upsample_nearest2d"]
    assert all(output.dtype == torch.bfloat16 for output in outputs.values()), "the loss makes float32 of them"
    precision.backward(sum(output.float().sum() for output in outputs.values()))
    trained = [p for p in model.parameters() if p.grad is not None]
    assert {p.dtype for p in trained} == {p.grad.dtype for p in trained} == {torch.float32}


def apex_stand_in(monkeypatch, **contents):
    package, amp = ModuleType("apex"), ModuleType("apex.amp")
    package.amp = amp
    vars(amp).update(contents)
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "apex.amp", amp)


def test_apex_that_is_missing_or_another_package_is_one_sentence(monkeypatch):
    for missing in (True, False):
        if missing:
            monkeypatch.setitem(sys.modules, "apex", None)
        else:
            apex_stand_in(monkeypatch)
        with pytest.raises(InputError, match=r"no apex\.amp\.initialize .*build Ascend's apex .* or use 'native'"):
            make_precision(settings(backend="apex"), CPU)


def test_apex_is_called_as_its_documentation_says(monkeypatch, caplog):
    """Against a stand-in: the real one needs an NPU."""
    calls = []

    @contextmanager
    def scale_loss(loss, optimizer):
        yield loss * 32
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad /= 32

    apex_stand_in(monkeypatch, initialize=lambda *a, **k: calls.append((a, k)), scale_loss=scale_loss)
    precision = make_precision(settings(backend="apex"), CPU)
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], 0.1, fused=True)
    precision.prepare("the model", optimizer)
    assert calls == [(("the model", optimizer), {"opt_level": "O1", "loss_scale": 32.0})]
    assert "not tested on a device" in caplog.text
    with precision.autocast():
        precision.backward((weight * 0.5).sum())
    precision.step(optimizer, 0.0, torch.tensor(False))
    assert torch.equal(weight, torch.full((3,), 1 - 0.1 * 0.5))
