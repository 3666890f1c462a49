"""On a device that refuses to mix with the CPU: whole trainings and detections never do. torch_npu is not there."""

import importlib.util

import pytest
import torch

from m2det.config import EvaluateParams
from m2det.device import choose_device, to_device
from m2det.evaluate.inference import detect_images
from m2det.model import prior_boxes
from m2det.model.model_file import load_trained
from tests.npu.training import cpu_in_the_order_of_the_npu, settings, train  # noqa: F401
from tests.tiny_model import write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.inside("strict"), pytest.mark.usefixtures("cpu_in_the_order_of_the_npu")]


def test_mixing_devices_is_refused():
    x = torch.ones(3).to("npu")
    assert importlib.util.find_spec("torch_npu") is None and x.device.type == "npu"
    for mix in (lambda: x + torch.ones(3), lambda: torch.cat([x, torch.ones(3)]), lambda: torch.ones(3).add_(x)):
        with pytest.raises(RuntimeError, match=r"mixes tensors|same device"):
            mix()
    assert (x + 1).cpu().tolist() == [2.0] * 3, "a number is no tensor"


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "aligned", "ema_decay": 0.9, "max_grad_norm": 1.0},
        {"objective": "multibox", "optimizer": "adamw", "weight_decay_norm_bias": False},
    ],
)
def test_a_training_never_mixes_devices(material, tmp_path, options):
    """Validation, logging, the average and the checkpoint are in it; the weights are the CPU's."""
    options |= {"steps": 4, "level": "O0", "evaluate_every": 1}
    torch.ops.simulated_npu.forget()
    found = train(material, tmp_path / "npu", settings("auto", **options))
    calls = torch.ops.simulated_npu.calls()
    assert calls["aten::convolution"] > calls["aten::convolution_backward"] > 0, "validation has no backward"
    wanted = train(material, tmp_path / "cpu", settings("cpu", **options))
    assert found.rows == wanted.rows
    for (name, a), (_, b) in zip(found.model.state_dict().items(), wanted.model.state_dict().items(), strict=True):
        assert torch.equal(a.cpu(), b), name


def test_a_detection_never_mixes_devices(tmp_path):
    model, _ = load_trained(write_tiny_model(tmp_path))
    device = choose_device("auto")
    assert device.type == "npu"
    to_device(model, device)
    images = torch.randint(0, 255, (2, 3, 96, 96), dtype=torch.uint8)
    how = EvaluateParams(
        split="val",
        batch_size=2,
        nms="linear",
        score_threshold=0.02,
        nms_iou=0.3,
        per_class=50,
        per_image=0,
        scorer="auto",
    )
    found = detect_images(model, prior_boxes(model.config).to(device), images, [(80, 60), (50, 90)], device, how)
    assert len(found) == 2 and sum(map(len, found)) > 0
