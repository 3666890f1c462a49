"""Whole trainings of a few steps on one device or the other, computed alike."""

from dataclasses import replace

import pytest
import torch

from m2det import device
from m2det.config import Params, load_params
from m2det.train import train as train_model
from tests.conftest import ROOT


def settings(which: str, steps: int = 3, level: str = "O1", sfam: bool = False, **train) -> Params:
    """m2det-tiny on `which` device, logging at the last step only; O1 in bfloat16, which every CPU computes.

    Without SFAM: torch_npu averages its maps in another order than the CPU, and the bits differ.
    """
    base = load_params(ROOT / "params.yaml").model_dump()
    base["epochs"] = 3
    base["run"] |= {"device": which, "log_every": 100}
    base["run"] |= {"processes": train.pop("processes", 1), "workers": train.pop("workers", 0)}
    base["run"]["graph"] = train.pop("graph", False)
    base["model"]["sfam"] = sfam
    base["precision"] |= {"opt_level": level, "dtype": train.pop("dtype", "bfloat16")}
    base["train"] |= {"batch_size": 4, "microbatch": 4, "evaluate_every": 100, "max_steps": steps} | train
    return Params.model_validate(base)


def train(material, folder, params: Params, callbacks=None):
    return train_model(params, *material, folder / "state", folder / "log.txt", callbacks=callbacks)


@pytest.fixture
def cpu_in_the_order_of_the_npu(monkeypatch):
    """The CPU prefers channels last, which adds up in another order; in the NPU's the same bits come out."""
    traits, optimizer_kernels = device.TRAITS["cpu"], device.optimizer_kernels
    npu = torch.device("npu")
    monkeypatch.setattr("m2det.train.optim.optimizer_kernels", lambda _, name: optimizer_kernels(npu, name))
    monkeypatch.setitem(device.TRAITS, "cpu", replace(traits, channels_last=False))
