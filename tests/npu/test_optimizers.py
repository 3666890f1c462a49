"""Why training uses torch's fused SGD on an NPU, and not torch_npu's NpuFusedSGD; and what the real kernels do.

NpuFusedSGD copies all gradients into one buffer at its first step, and reads that one from then on.
"""

import copy

import pytest
import torch

from m2det.config import PrecisionParams
from m2det.device import supports_foreach
from m2det.train.amp import Precision
from m2det.train.optim import make_optimizer
from tests.npu.training import settings

pytestmark = [pytest.mark.slow, pytest.mark.inside("torch_npu")]

SCALE = {"opt_level": "O1", "loss_scale": "dynamic", "dtype": "bfloat16", "backend": "native"}
RATE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-3}


def npu_fused_sgd(parameters, **options):
    import torch_npu  # here: the file is read where it is not installed, too

    return torch_npu.optim.NpuFusedSGD(parameters, **options)


def fused_sgd(parameters, **options):
    return torch.optim.SGD(parameters, fused=True, **options)


def linear(value=1.0, dtype=torch.float32):
    layer = torch.nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.fill_(value)
    return layer.to("npu", dtype)


def backward(layer, by=1.0):
    layer(torch.full((1, 4), by, device="npu", dtype=layer.weight.dtype)).sum().backward()


def test_used_as_it_wants_its_weights_are_those_of_torchs_fused_sgd():
    torch.manual_seed(0)
    start = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1))
    batches = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    trained = []
    for kind in (npu_fused_sgd, fused_sgd):
        model = copy.deepcopy(start).to("npu")
        optimizer = kind(model.parameters(), **RATE)
        for batch in batches:
            optimizer.zero_grad()
            model(batch.to("npu")).square().mean().backward()
            optimizer.step()
        trained.append([p.detach().cpu() for p in model.parameters()])
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_first_trap_it_refuses_gradients_set_to_none():
    layer = linear()
    optimizer = npu_fused_sgd(layer.parameters(), lr=0.1)
    backward(layer)
    optimizer.step()
    with pytest.raises(ValueError, match="set_to_none"):
        optimizer.zero_grad(set_to_none=True)  # what torch's optimizers do unless told otherwise


@pytest.mark.parametrize(("kind", "moved"), [(npu_fused_sgd, 0.19), (fused_sgd, 0.29)])
def test_second_trap_after_the_models_zero_grad_it_takes_old_gradients(kind, moved):
    """In silence: gradients of 1, then of 2; with momentum 0.9 the second step moves by 0.1 (2 + 0.9)."""
    layer = linear()
    optimizer = kind(layer.parameters(), lr=0.1, momentum=0.9)
    backward(layer)
    optimizer.step()
    before = layer.weight.detach().cpu().clone()
    layer.zero_grad()
    backward(layer, by=2.0)
    optimizer.step()
    torch.testing.assert_close(before - layer.weight.detach().cpu(), torch.full((4, 4), moved))


def test_third_trap_it_takes_the_whole_bucket_of_ddp_for_a_gradient():
    """With gradient_as_bucket_view a gradient is a part of a bucket; here of one like it."""
    layer = linear()
    bucket = torch.ones(36, device="npu")
    layer.weight.grad = bucket[:16].view(4, 4)
    layer.bias.grad = bucket[16:20]
    with pytest.raises(RuntimeError, match="size of tensor"):
        npu_fused_sgd(layer.parameters(), lr=0.1).step()
    fused_sgd(layer.parameters(), lr=0.1).step()


def test_fourth_trap_it_has_no_bfloat16():
    layer = linear(dtype=torch.bfloat16)
    backward(layer)
    with pytest.raises(TypeError):
        npu_fused_sgd(layer.parameters(), lr=0.1).step()
    fused_sgd(layer.parameters(), lr=0.1).step()


@pytest.fixture
def own_kernels():
    """torch_npu's own kernels of the fused optimizers: they want CANN as soon as they compute."""
    restored = {"aten::_fused_sgd_", "aten::_fused_adamw_"}
    for name in restored:
        torch.ops.simulated_npu.restore(name)
    yield
    torch.ops.simulated_npu.redirect(sorted(restored))


def fused_step(name, found_inf):
    """One step of a fused optimizer with the flag that says to skip; returns which operators ran for it."""
    layer = linear()
    optimizer = getattr(torch.optim, name)(layer.parameters(), fused=True, **({} if name == "AdamW" else RATE))
    backward(layer)
    optimizer.found_inf = torch.tensor(found_inf, device="npu")
    torch.ops.simulated_npu.forget()
    optimizer.step()
    return torch.ops.simulated_npu.calls()


@pytest.mark.usefixtures("own_kernels")
def test_the_real_sgd_kernel_honours_the_flag_but_waits_for_the_device():
    """It reads the flag to the host (`_local_scalar_dense`) at each step; set to 1, it computes nothing."""
    assert fused_step("SGD", 1.0)["aten::_local_scalar_dense"] == 1
    with pytest.raises(RuntimeError, match="aclnnFusedSgd"):
        fused_step("SGD", 0.0)


@pytest.mark.usefixtures("own_kernels")
def test_the_real_sgd_kernel_wants_momentum():
    layer = linear()
    backward(layer)
    with pytest.raises(RuntimeError, match="momentum must be positive"):
        fused_sgd(layer.parameters(), lr=0.1).step()


@pytest.mark.usefixtures("own_kernels")
def test_the_real_adamw_kernel_does_not_read_the_flag():
    """Told to skip, it computes: without CANN that fails."""
    with pytest.raises(RuntimeError, match="aclnnApplyAdamW"):
        fused_step("AdamW", 1.0)


def test_training_has_momentum_for_that_kernel():
    assert settings("npu").train.momentum > 0


@pytest.mark.parametrize(
    ("chip", "sgd", "adamw"),
    [
        ("Ascend910B3", "fused", "foreach"),
        ("Ascend910_9391", "fused", "foreach"),
        ("Ascend950DT_9571", "foreach", "foreach"),
        ("Ascend910A", "for-loop", "for-loop"),
        ("Ascend910B", "for-loop", "for-loop"),  # an original 910, too
        ("Ascend910ProA", "for-loop", "for-loop"),
        ("Ascend310P3", "for-loop", "for-loop"),
        ("a chip of later", "for-loop", "for-loop"),
    ],
)
def test_kernels_over_lists_are_used_where_they_are_documented(monkeypatch, caplog, chip, sgd, adamw):
    caplog.set_level("INFO")
    monkeypatch.setattr(torch.npu, "get_device_name", lambda _: chip)
    for optimizer, kernels in (("sgd", sgd), ("adamw", adamw)):
        found = make_optimizer(linear(), settings("npu", optimizer=optimizer).train, 0.1)
        assert {key: found.defaults[key] for key in ("fused", "foreach")} == {
            key: key == kernels for key in ("fused", "foreach")
        }
        assert f"optimizer: {optimizer}, {kernels} (" in caplog.text
    assert supports_foreach(torch.device("npu")) == (sgd != "for-loop")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_dynamic_scale_leaves_an_overflow_out_with_either_optimizer(optimizer):
    layer = linear()
    found = make_optimizer(layer, settings("npu", optimizer=optimizer).train, 0.1)
    precision = Precision(PrecisionParams(**SCALE), torch.device("npu"))
    before = layer.weight.detach().cpu().clone()
    never = torch.tensor(False, device="npu")
    for factor, moved in ((float("inf"), False), (1.0, True)):
        found.zero_grad()
        precision.backward((layer.weight.sum() + layer.bias.sum()) * factor)
        precision.step(found, 0.0, never)
        assert torch.equal(layer.weight.detach().cpu(), before) != moved
    assert precision.loss_scale() == 2.0**15
