"""Which type each operator of the network computes in under the NPU's autocast, and how the loss scales behave."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from m2det.config import PrecisionParams
from m2det.model import build_model
from m2det.model.mlfpn import upsample_nearest_to
from m2det.train.amp import Precision

pytestmark = [pytest.mark.slow, pytest.mark.inside("torch_npu")]

HALVES = [torch.float16, torch.bfloat16]
# all operators that make maps in m2det-tiny: each in autocast's half type, none in float32
MAPS = (
    *("convolution", "native_batch_norm", "relu", "relu_", "max_pool2d_with_indices", "upsample_nearest2d", "cat"),
    *("add", "_adaptive_avg_pool2d", "sigmoid", "mul"),
)


class OutputTypes(TorchDispatchMode):
    """The types of the floating tensors that each operator returns, of 4 dimensions: the network's maps."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, (tuple, list)) else result
        if isinstance(first, torch.Tensor) and first.is_floating_point() and first.dim() == 4:
            self.seen.setdefault(func.overloadpacket.__name__, set()).add(first.dtype)
        return result


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_the_network_computes_in_the_half_type(half):
    precision = Precision(
        PrecisionParams(opt_level="O1", loss_scale=32.0, dtype=str(half)[6:], backend="native"), torch.device("npu")
    )
    model = build_model("m2det-tiny", 3, sfam=True, planes=16).to("npu")
    with OutputTypes() as types, precision.autocast():
        model(torch.randn(2, 3, 96, 96).to("npu"))
    assert {operator: types.seen[operator] for operator in MAPS} == {operator: {half} for operator in MAPS}


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_nearest_upsampling_keeps_its_type(half):
    with torch.autocast("npu", dtype=half):
        for kind in (half, torch.float32):
            x = torch.randn(1, 2, 4, 4).to("npu", kind)
            assert upsample_nearest_to(x, torch.Size((8, 8))).dtype == kind
            assert F.interpolate(x, scale_factor=2).dtype == kind, "torch_npu's autocast leaves it alone, CUDA's not"


def test_what_would_lose_by_half_precision_is_computed_in_float32():
    x = torch.rand(2, 3, 4, 4).to("npu", torch.float16)
    with torch.autocast("npu", dtype=torch.float16):
        for result in (x.softmax(1), x.log(), F.smooth_l1_loss(x, x), x.sum(), F.cross_entropy(x, x.argmax(1))):
            assert result.dtype == torch.float32


class Small:
    """Two layers and their gradients under a scale."""

    def __init__(self, device):
        torch.manual_seed(0)
        start = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1))
        self.model = copy.deepcopy(start).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, 0.9, weight_decay=5e-3, fused=True)
        self.image = torch.randn(2, 3, 8, 8).to(device)

    def loss(self):
        self.optimizer.zero_grad()
        return self.model(self.image).square().mean()

    def weights(self):
        return [p.detach().cpu().clone() for p in self.model.parameters()]


def test_a_static_scale_of_a_power_of_two_changes_no_bit():
    never = torch.tensor(False, device="npu")
    trained = []
    for scale in (1.0, 32.0):
        precision = Precision(
            PrecisionParams(opt_level="O1", loss_scale=scale, dtype="bfloat16", backend="native"), torch.device("npu")
        )
        small = Small("npu")
        for _ in range(3):
            precision.backward(small.loss())
            precision.step(small.optimizer, 0.0, skip=never)
        trained.append(small.weights())
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


def dynamic_step(scaler, small, factor=1.0):
    scaler.scale(small.loss() * factor).backward()
    scaler.step(small.optimizer)
    scaler.update()


def test_a_dynamic_scale_skips_an_overflow_and_halves():
    scaler, small = torch.amp.GradScaler("npu", init_scale=32.0), Small("npu")
    before = small.weights()
    dynamic_step(scaler, small, float("inf"))
    assert scaler.get_scale() == 16.0
    assert all(torch.equal(a, b) for a, b in zip(small.weights(), before, strict=True))
    dynamic_step(scaler, small)
    assert scaler.get_scale() == 16.0
    assert not any(torch.equal(a, b) for a, b in zip(small.weights(), before, strict=True))


def test_a_dynamic_scale_gives_the_weights_of_none():
    scaled, plain = Small("npu"), Small("cpu")
    scaler = torch.amp.GradScaler("npu", init_scale=32.0)
    for _ in range(3):
        dynamic_step(scaler, scaled)
        plain.loss().backward()
        plain.optimizer.step()
    for a, b in zip(scaled.weights(), plain.weights(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)  # the fused step divides by the scale in its own order


def test_torch_npus_scaler_halves_too_but_cannot_drive_torchs_fused_sgd():
    """Which is why torch's own is the one to use on an NPU."""
    import torch_npu  # here: the file is read where it is not installed, too

    scaler, small = torch_npu.npu.amp.GradScaler(init_scale=32.0), Small("npu")
    with pytest.raises(TypeError, match="grad_scaler"):
        dynamic_step(scaler, small)
    scaler, small = torch_npu.npu.amp.GradScaler(init_scale=32.0), Small("npu")
    small.optimizer = torch.optim.SGD(small.model.parameters(), 0.1, 0.9)
    before = small.weights()
    dynamic_step(scaler, small, float("inf"))
    assert scaler.get_scale() == 16.0
    assert all(torch.equal(a, b) for a, b in zip(small.weights(), before, strict=True))
