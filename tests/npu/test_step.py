"""Whole trainings and detections on the simulated NPU: the CPU's numbers, and nothing left to the CPU in secret.

TORCH_NPU_FALLBACK_CPU_DISABLE is 1 here: an operator that torch_npu has no kernel for would end the test.
"""

import multiprocessing
import os

import numpy as np
import pytest
import torch

from m2det.config import EvaluateParams, PrecisionParams
from m2det.data.packed.reader import PackedSplit
from m2det.device import choose_device, to_device
from m2det.distributed.group import ALONE
from m2det.evaluate.inference import detect_images
from m2det.loss import AlignedLoss, MultiBoxLoss
from m2det.model import prior_boxes
from m2det.model.model_file import load_trained
from m2det.model.preprocess import subtract_mean
from m2det.train.build import build_training, make_precision
from m2det.train.checkpoint import load_state
from m2det.train.loss_monitor import LossMonitor
from m2det.train.writer import BackgroundWriter, Writer
from tests.npu.training import cpu_in_the_order_of_the_npu, settings, train  # noqa: F401
from tests.static_shapes import watched_steps
from tests.tiny_model import write_tiny_model
from tests.training import AfterStep

pytestmark = [pytest.mark.slow, pytest.mark.inside("torch_npu"), pytest.mark.usefixtures("cpu_in_the_order_of_the_npu")]

DETECT = EvaluateParams(
    split="val", batch_size=2, nms="linear", score_threshold=0.02, nms_iou=0.3, per_class=50, per_image=0, scorer="auto"
)


def same_weights(a, b):
    for (name, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(x.cpu(), y.cpu()), name


def parts_on(kind, material, **options):
    return build_training(settings(kind, **options), *material, choose_device(kind), ALONE)[0]


@pytest.mark.parametrize(("level", "objective"), [("O0", "aligned"), ("O1", "aligned"), ("O1", "multibox")])
def test_training_gives_the_bits_of_the_cpu(material, tmp_path, level, objective):
    """Loss, static scale, clipping, fused SGD, the flag to skip and the moving average: the whole loop."""
    options = {"level": level, "objective": objective}
    found, wanted = (train(material, tmp_path / kind, settings(kind, **options)) for kind in ("npu", "cpu"))
    assert found.rows == wanted.rows
    same_weights(found.model, wanted.model)


def test_adamw_and_undecayed_norms_too(material, tmp_path):
    options = {"optimizer": "adamw", "weight_decay_norm_bias": False, "lr": 0.001}
    found, wanted = (train(material, tmp_path / kind, settings(kind, **options)) for kind in ("npu", "cpu"))
    same_weights(found.model, wanted.model)


@pytest.mark.parametrize("objective", [MultiBoxLoss(), AlignedLoss()])
@pytest.mark.parametrize(("sfam", "tolerance"), [(False, 0.0), (True, 1e-4)])
def test_forward_and_gradients_of_one_step_equal_the_cpus(material, objective, sfam, tolerance):
    """With SFAM, whose average torch_npu adds up in another order, as nearly as float32 allows."""
    results = {}
    for kind in ("npu", "cpu"):
        parts = parts_on(kind, material, level="O0", sfam=sfam)
        images = torch.randint(0, 255, (4, 3, 96, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.6]]]).expand(4, 1, 4).contiguous().to(parts.device)
        labels = torch.ones(4, 1, dtype=torch.int64, device=parts.device)
        outputs = parts.network(subtract_mean(images.to(parts.device), parts.device))
        losses = objective(outputs, parts.priors, boxes, labels)
        parts.precision.backward(losses["loc"] + losses["conf"])
        results[kind] = [outputs["loc"], outputs["conf"], *(p.grad for p in parts.model.parameters())]
    for found, wanted in zip(results["npu"], results["cpu"], strict=True):
        assert found.device.type == "npu"
        assert (found.cpu() - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_a_loss_that_is_not_finite_changes_no_weight(material):
    parts = parts_on("npu", material)
    monitor = LossMonitor(ALONE, parts.device, str)
    before = {name: p.detach().cpu().clone() for name, p in parts.model.named_parameters()}
    bad = torch.tensor(float("nan"), device=parts.device)
    monitor.update(0, {"loc": bad, "conf": bad})
    for parameter in parts.model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    parts.precision.step(parts.optimizer, 0.0, skip=monitor.found_nonfinite())
    for name, parameter in parts.model.named_parameters():
        assert torch.equal(parameter.detach().cpu(), before[name]), name


def test_detection_gives_the_boxes_of_the_cpu(tmp_path):
    path = write_tiny_model(tmp_path)
    images = torch.randint(0, 255, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = {}
    for kind in ("npu", "cpu"):
        model, _ = load_trained(path)
        device = choose_device(kind)
        to_device(model, device)
        priors = prior_boxes(model.config)
        found[kind] = detect_images(model, priors.to(device), images, [(80, 60), (50, 90)], device, DETECT)
    assert sum(map(len, found["cpu"])) > 0
    for a, b in zip(found["npu"], found["cpu"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_operator_without_a_kernel_is_refused():
    """The other tests of this file would be refused in the same way."""
    assert os.environ["TORCH_NPU_FALLBACK_CPU_DISABLE"] == "1"
    with pytest.raises(RuntimeError, match="digamma"):
        torch.digamma(torch.ones(3, device="npu"))


def test_the_device_is_named_a_simulation():
    assert "simulated" in torch.npu.get_device_name()
    with pytest.raises(RuntimeError):  # no kernel of CANN is there
        torch.ops.npu.npu_iou(torch.ones(1, 4, device="npu"), torch.ones(1, 4, device="npu"))


def test_precision_chooses_float16_on_an_npu(caplog):
    caplog.set_level("INFO")
    params = PrecisionParams(opt_level="O1", loss_scale=32.0, dtype="auto", backend="native")
    assert make_precision(params, choose_device("npu")).dtype == torch.float16
    assert "float16 (the low-precision dtype of npu)" in caplog.text


def test_validation_of_a_split_runs_on_the_npu(material, tmp_path):
    outcome = train(material, tmp_path, settings("npu", evaluate_every=1))
    assert len(PackedSplit(material[0], "val")) == 14 and "AP" in outcome.rows[-1]


def test_checkpoints_are_written_in_the_background_and_workers_come_from_a_server(material, tmp_path):
    """With the CPU's bits: momentum, average and losses were copied in time."""
    seen, found = [], []

    def look(state):
        workers = {type(process).__name__ for process in multiprocessing.active_children()}
        seen.append((type(state.writer), workers))

    for kind in ("npu", "cpu"):
        train(material, tmp_path / kind, settings(kind, ema_decay=0.9, workers=2), AfterStep(look, 2))
        state = load_state(tmp_path / kind / "state")
        momentum = [entry["momentum_buffer"] for entry in state["optimizer"]["state"].values()]
        found.append([*state["model"].values(), *momentum, *state["ema"].values(), state["rows"], state["losses"]])
    assert seen == [(BackgroundWriter, {"ForkServerProcess"}), (Writer, {"ForkProcess"})]
    for on_npu, on_cpu in zip(*found, strict=True):
        assert torch.equal(on_npu, on_cpu) if isinstance(on_cpu, torch.Tensor) else on_npu == on_cpu


@pytest.mark.parametrize("objective", ["multibox", "aligned"])
def test_a_step_on_the_npu_has_fixed_shapes_and_waits_for_nothing(material, tmp_path, objective):
    """But for the flag in torch_npu's own kernel of SGD, see test_optimizers.py."""
    params = settings("npu", steps=2, ema_decay=0.9, objective=objective)
    assert watched_steps(material, tmp_path, params) == [1, 2]
