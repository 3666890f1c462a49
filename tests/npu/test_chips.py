"""A whole step, a resumed training and a detection on each chip that is simulated, which refuses what it lacks.

Which chip has which kernels is in simulator/chips.py, by CANN's documents. Formats are those of the real torch_npu.
"""

from dataclasses import replace
from itertools import product

import pytest
import torch

from m2det import device
from m2det.config import EvaluateParams, PrecisionParams
from m2det.device import choose_device, to_device
from m2det.errors import InputError
from m2det.evaluate.inference import detect_images
from m2det.model import build_model, prior_boxes
from m2det.model.model_file import load_trained
from m2det.train.amp import Precision
from m2det.train.ema import ModelEma
from tests.npu.training import cpu_in_the_order_of_the_npu, settings, train  # noqa: F401
from tests.tiny_model import write_tiny_model
from tests.training import AfterStep, interrupt_at_5

OLD, A2, A3 = "Ascend910A", "Ascend910B1", "Ascend910_9391"


def on(chip, *values, long=False):
    """The parameters of a test that runs where that chip is."""
    return pytest.param(chip, *values, marks=[pytest.mark.inside("torch_npu", chip), *[pytest.mark.long] * long])


EACH_CHIP = [on(OLD), on(A2), on(A3)]
# A2 is the chip of test_step.py and test_moves.py, which show the same of it
BUT_A2 = [on(OLD), on(A2, long=True), on(A3)]
STEPS = [
    on(chip, level, optimizer, long=chip == A2 or (chip == A3 and (level == "O0") == (optimizer == "sgd")))
    for chip, level, optimizer in product((OLD, A2, A3), ("O0", "O1"), ("sgd", "adamw"))
]
WHOLE = {"max_grad_norm": 1.0, "ema_decay": 0.9}
DETECT = EvaluateParams(
    split="val", batch_size=2, nms="linear", score_threshold=0.02, nms_iou=0.3, per_class=50, per_image=0, scorer="auto"
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cpu_in_the_order_of_the_npu")]


@pytest.fixture(autouse=True)
def formats_as_the_product_sets_them():
    choose_device.cache_clear()
    yield
    choose_device.cache_clear()


@pytest.fixture
def on_the_chip(chip):
    """After the test: the product is to set things before a device is used."""
    yield
    assert chip in torch.npu.get_device_name()


def formats(tensors):
    import torch_npu  # here: the file is read where it is not installed, too

    return {torch_npu.get_npu_format(tensor).name for tensor in tensors}


def formats_of_a_step(material, folder, params):
    """The formats of weights, statistics and gradients after a step."""
    seen = set()

    def look(state):
        model = state.parts.model
        seen.update(formats([*model.state_dict().values(), *(p.grad for p in model.parameters())]))

    train(material, folder, params, AfterStep(look, 1))
    return seen


def same_weights(a, b):
    for (name, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(x.cpu(), y.cpu()), name


@pytest.mark.usefixtures("on_the_chip")
@pytest.mark.parametrize(("chip", "level", "optimizer"), STEPS)
def test_a_whole_step_gives_the_bits_of_the_cpu(material, tmp_path, chip, level, optimizer):
    dtype = "float16" if chip == OLD else "bfloat16"  # an old chip has no other one; the CPU is slow with it
    options = WHOLE | {"steps": 2, "level": level, "dtype": dtype, "optimizer": optimizer, "lr": 0.001}
    found, wanted = (train(material, tmp_path / kind, settings(kind, **options)) for kind in ("npu", "cpu"))
    assert found.rows == wanted.rows
    same_weights(found.model, wanted.model)


@pytest.mark.usefixtures("on_the_chip")
@pytest.mark.parametrize("chip", BUT_A2)
def test_a_resumed_training_gives_the_same_bits(material, tmp_path):
    params = settings("npu", steps=6, level="O0", **WHOLE)
    interrupt_at_5(material, tmp_path / "resumed", params)
    resumed, whole = (train(material, tmp_path / kind, params) for kind in ("resumed", "whole"))
    assert resumed.rows == whole.rows and resumed.steps == 6
    same_weights(resumed.model, whole.model)


@pytest.mark.usefixtures("on_the_chip")
@pytest.mark.parametrize("chip", BUT_A2)
def test_a_detection_gives_the_boxes_of_the_cpu(tmp_path):
    path = write_tiny_model(tmp_path)
    images = torch.randint(0, 255, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = {}
    for kind in ("npu", "cpu"):
        model, _ = load_trained(path)
        device = choose_device(kind)
        to_device(model, device)
        sizes = [(80, 60), (50, 90)]
        found[kind] = detect_images(model, prior_boxes(model.config).to(device), images, sizes, device, DETECT)
    assert sum(map(len, found["cpu"])) > 0
    for a, b in zip(found["npu"], found["cpu"], strict=True):
        assert (a == b).all()


@pytest.mark.usefixtures("on_the_chip")
@pytest.mark.parametrize("chip", EACH_CHIP)
def test_nothing_of_a_training_is_in_a_format_of_the_chip(material, tmp_path):
    assert formats_of_a_step(material, tmp_path, settings("npu", steps=1, level="O0", **WHOLE)) <= {"NCHW", "ND"}


@pytest.mark.inside("torch_npu", OLD)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_old_chip_refuses_operators_over_lists(material, tmp_path, monkeypatch, optimizer):
    """Were it taken for one of the newer chips, its first step would end as that of a user did."""
    monkeypatch.setattr(device, "OTHER_CHIPS", replace(device.OTHER_CHIPS, foreach=True, fused_sgd=True))
    plain = {"steps": 1, "level": "O0", "max_grad_norm": 0.0, "optimizer": optimizer}
    for folder, options, refused in (
        ("norm", {"max_grad_norm": 1.0}, rf"_foreach_norm.*foreach_norm/README.md does not name {OLD}"),
        ("scale", {"level": "O1", "dtype": "float16"}, r"_foreach_mul_.*does not name"),
        ("step", {}, {"sgd": r"_fused_sgd_.*does not name", "adamw": r"_foreach_.*does not name"}[optimizer]),
    ):
        with pytest.raises(RuntimeError, match=refused):
            train(material, tmp_path / folder, settings("npu", **plain | options))
    average = ModelEma(build_model("m2det-tiny", 1).to("npu"), 0.9)
    with pytest.raises(RuntimeError, match=r"_foreach_lerp_.*does not name"):
        average.update()


@pytest.fixture
def formats_of_the_chip_are_allowed(monkeypatch):
    """As torch_npu leaves it on an old chip; the product would set it again with the next device that it chooses."""
    monkeypatch.setattr("m2det.train.trainer.choose_device", torch.device)
    torch.npu.config.allow_internal_format = True
    yield
    torch.npu.config.allow_internal_format = False


@pytest.fixture
def own_norm():
    """torch_npu's own kernel of _foreach_norm."""
    torch.ops.simulated_npu.restore("aten::_foreach_norm.Scalar")
    yield
    torch.ops.simulated_npu.redirect(["aten::_foreach_norm.Scalar"])


@pytest.mark.inside("torch_npu", OLD)
@pytest.mark.usefixtures("formats_of_the_chip_are_allowed", "own_norm")
def test_with_formats_of_the_chip_torch_npu_itself_ends_the_first_step(material, tmp_path, monkeypatch):
    """What a user saw, from the real torch_npu; and that a loop over the tensors would be enough."""
    params = settings("npu", steps=1, level="O0", max_grad_norm=1.0, optimizer="adamw")
    assert "FRACTAL_Z" in formats_of_a_step(material, tmp_path / "loop", params)
    monkeypatch.setattr("m2det.train.amp.supports_foreach", lambda _: True)
    with pytest.raises(RuntimeError, match="_foreach_norm do not support internal format"):
        train(material, tmp_path / "lists", params)


@pytest.fixture(params=["simulated", "torch_npu's own"])
def norm(request):
    """_foreach_norm by either."""
    if request.param != "simulated":
        request.getfixturevalue("own_norm")


@pytest.mark.inside("torch_npu", "Ascend910B1")
@pytest.mark.usefixtures("formats_of_the_chip_are_allowed", "norm")
def test_the_simulation_refuses_formats_of_the_chip_in_the_words_of_torch_npu():
    weight = torch.ops.npu.npu_format_cast(torch.ones(16, 16, 3, 3, device="npu"), 4)  # FRACTAL_Z
    with pytest.raises(RuntimeError, match="Current operator _foreach_norm do not support internal format"):
        torch._foreach_norm([weight])


@pytest.mark.inside("torch_npu", OLD)
def test_the_setting_is_made_before_a_model_is_moved():
    torch.npu.config.allow_internal_format = True  # as torch_npu leaves it there
    assert "FRACTAL_Z" in formats(build_model("m2det-tiny", 1).to("npu").parameters())
    model = build_model("m2det-tiny", 1)
    to_device(model, choose_device("npu"))
    assert formats(model.state_dict().values()) <= {"NCHW", "ND"}


@pytest.mark.inside("torch_npu", OLD)
def test_an_old_chip_has_no_bfloat16(material, tmp_path):
    """torch_npu would warn that it disables autocast, and compute in float32."""
    with pytest.raises(InputError, match=rf"precision.dtype is bfloat16, which .*{OLD}.* does not support"):
        train(material, tmp_path, settings("npu", dtype="bfloat16"))
    auto = PrecisionParams(opt_level="O1", loss_scale=32.0, dtype="auto", backend="native")
    assert Precision(auto, choose_device("npu")).dtype == torch.float16
