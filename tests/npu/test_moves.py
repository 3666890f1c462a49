"""A training that began on one device continues on the other."""

import copy

import pytest
import torch

from m2det.model.model_file import load_trained, save_trained
from m2det.train.checkpoint import load_state
from tests.npu.training import cpu_in_the_order_of_the_npu, settings, train  # noqa: F401
from tests.training import AfterStep, interrupt_at_5

pytestmark = [pytest.mark.slow, pytest.mark.inside("torch_npu"), pytest.mark.usefixtures("cpu_in_the_order_of_the_npu")]

OPTIONS = {"steps": 7, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def whole(material, tmp_path_factory):
    return train(material, tmp_path_factory.mktemp("whole"), settings("npu", **OPTIONS))


@pytest.mark.parametrize(("first", "then"), [("npu", "cpu"), ("cpu", "npu")])
def test_what_one_device_began_the_other_ends(material, whole, tmp_path, first, then):
    """Weights, momentum, average and sums are saved of one and loaded into the other: the same bits."""
    interrupt_at_5(material, tmp_path, settings(first, **OPTIONS))
    state = load_state(tmp_path / "state")
    momentum = [s["momentum_buffer"] for s in state["optimizer"]["state"].values()]
    assert momentum and all(m.device.type == "cpu" for m in momentum)
    resumed = train(material, tmp_path, settings(then, **OPTIONS))
    assert resumed.rows == whole.rows and resumed.steps == 7
    for (name, a), (_, b) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        assert torch.equal(a.cpu(), b.cpu()), name


def test_the_optimizer_continues_on_the_npu(material, tmp_path):
    interrupt_at_5(material, tmp_path, settings("cpu", **OPTIONS))
    devices = set()

    def look(state):
        for parameter, values in state.parts.optimizer.state.items():
            devices.update({parameter.device.type, values["momentum_buffer"].device.type})

    train(material, tmp_path, settings("npu", **OPTIONS), AfterStep(look, 6))
    assert devices == {"npu"}


def test_a_model_trained_on_the_npu_is_a_file_for_any_machine(whole, tmp_path):
    card = {
        "model": "m2det-tiny",
        "overrides": {"sfam": False},
        "classes": ["square"],
        "category_ids": [1],
        "hashes": {},
    }
    wanted = {key: value.detach().cpu().clone() for key, value in whole.model.state_dict().items()}
    save_trained(tmp_path / "model.safetensors", copy.deepcopy(whole.model), card)
    loaded, _ = load_trained(tmp_path / "model.safetensors")
    for key, value in loaded.state_dict().items():
        assert value.device.type == "cpu" and torch.equal(value, wanted[key]), key
