"""run.graph on an NPU: torch_npu's own make_graphed_callables over recorded graphs, since nothing simulates CANN's."""

import pytest
import torch

from m2det import device
from m2det.errors import InputError
from tests.npu.training import cpu_in_the_order_of_the_npu, settings, train  # noqa: F401
from tests.recorded_graphs import RecordedGraph, give_the_npu_recorded_graphs

pytestmark = pytest.mark.slow

A2, A3 = "Ascend910B1", "Ascend910_9391"


@pytest.mark.parametrize(
    "chip",
    [
        pytest.param(A2, marks=pytest.mark.inside("torch_npu", A2)),
        pytest.param(A3, marks=[pytest.mark.inside("torch_npu", A3), pytest.mark.long]),
    ],
)
@pytest.mark.usefixtures("cpu_in_the_order_of_the_npu")
def test_a_training_with_graphs_has_the_bits_of_the_cpu_without(material, tmp_path, monkeypatch, chip):
    assert chip in torch.npu.get_device_name()
    options = {"steps": 3, "ema_decay": 0.9, "max_grad_norm": 1.0}
    give_the_npu_recorded_graphs(monkeypatch)
    found = train(material, tmp_path / "npu", settings("npu", graph=True, **options))
    wanted = train(material, tmp_path / "cpu", settings("cpu", **options))
    assert len(RecordedGraph.captured) == 6 and len(RecordedGraph.replayed) == 3 * 6
    assert found.rows == wanted.rows
    for (name, a), (_, b) in zip(found.model.state_dict().items(), wanted.model.state_dict().items(), strict=True):
        assert torch.equal(a.cpu(), b.cpu()), name


@pytest.mark.inside("torch_npu", A2)
def test_an_original_910_is_refused_by_its_name(material, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.npu, "get_device_name", lambda _: "Ascend910A")
    with pytest.raises(InputError, match=r"^run.graph is true, but CANN documents no captured graphs for Ascend910A"):
        train(material, tmp_path, settings("npu", dtype="float16", graph=True))


@pytest.mark.inside("torch_npu", A2)
@pytest.mark.parametrize(
    ("chip", "supported"),
    [("Ascend910B3", True), ("Ascend910_9391", True), ("Ascend950DT_9571", True), ("Ascend950PR_9589", True)]
    + [(old, False) for old in ("Ascend910B", "Ascend910ProA", "Ascend310P3", "a chip of later")],
)
def test_graphs_are_captured_where_they_are_documented(monkeypatch, chip, supported):
    monkeypatch.setattr(torch.npu, "get_device_name", lambda _: chip)
    found, reason = device.graph_support(torch.device("npu"))
    assert found == supported and chip in reason


@pytest.mark.inside("torch_npu", A2)
@pytest.mark.parametrize(("level", "then"), [(2, 1), (1, 1), (0, 0)])
def test_torch_npus_queue_is_at_a_level_that_it_captures_with(monkeypatch, level, then):
    """Else it ends with "Do not support TASK_QUEUE_ENABLE = 2 during NPU graph capture"."""
    before = torch.npu.get_task_queue_enable()
    monkeypatch.setattr(torch.npu, "make_graphed_callables", lambda *_: torch.npu.get_task_queue_enable())
    torch.npu.set_task_queue_enable(level)
    try:
        assert device.capture_graphs((), (), torch.device("npu")) == then
    finally:
        torch.npu.set_task_queue_enable(before)
