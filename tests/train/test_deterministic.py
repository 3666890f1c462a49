"""run.deterministic: torch's switch is on while a process trains; variables are set before the process starts."""

from types import SimpleNamespace

import pytest
import torch

import m2det.distributed.launch
from m2det.device import environment_of, set_determinism
from m2det.distributed.launch import launch, needs_torchrun
from m2det.distributed.nodes import Work
from tests.training import AfterStep, run, settings


@pytest.fixture(autouse=True)
def restored():
    yield
    set_determinism(False)


@pytest.mark.parametrize("objective", ["multibox", "aligned"])
def test_it_is_on_in_a_step_and_no_operator_is_refused(material, tmp_path, objective):
    seen = []
    watch = AfterStep(lambda _: seen.append(torch.are_deterministic_algorithms_enabled()))
    run(material, tmp_path, settings(deterministic=True, objective=objective, max_steps=1), watch)
    assert seen == [True]


def test_the_variables_are_set_before_processes_start(tmp_path, monkeypatch):
    """Also for one process on cuda, which needs torchrun only then."""
    device, given = torch.device("cuda"), {}
    monkeypatch.setattr(m2det.distributed.launch, "choose_device", lambda _: device)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    plain, strict = settings(), settings(deterministic=True)
    assert (needs_torchrun(plain, 1), needs_torchrun(strict, 1)) == (False, True)
    work = Work("m2det.train.rank", (), tmp_path)
    launch(work, strict, 1, lambda _, **options: given.update(options["env"]))
    assert given["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    npu = SimpleNamespace(type="npu")  # torch has no such device until torch_npu is imported
    assert environment_of(npu, True) == environment_of(npu, False) | {"HCCL_DETERMINISTIC": "true"}
