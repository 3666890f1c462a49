"""Short trainings on the bright squares of tests/squares.py: their parameters, and one that is interrupted."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from m2det.config import Params, load_params
from m2det.train import trainer
from m2det.train.checkpoint import load_state
from m2det.train.state import Run
from tests.conftest import ROOT


def settings(**changes: Any) -> Params:
    """The shipped parameters with 3 epochs of 4 images per step on the CPU, and `changes` by name in any section.

    train.microbatch is a process's whole share of a step unless it is given.
    """
    base = load_params(ROOT / "params.yaml").model_dump()
    base["epochs"] = 3
    base["run"] |= {"device": "cpu", "workers": 0, "log_every": 1}
    base["train"] |= {"batch_size": 4, "evaluate_every": 2, "max_steps": 0}
    for key, value in changes.items():
        target = next((base[name] for name in ("train", "run", "precision") if key in base[name]), base)
        assert key in target, key
        target[key] = value
    if "microbatch" not in changes:
        processes = base["run"]["processes"]
        base["train"]["microbatch"] = base["train"]["batch_size"] // (1 if processes == "auto" else processes)
    return Params.model_validate(base)


def write_params(folder: Path, **changes: Any) -> Path:
    """Write the settings of a training in two processes to params.yaml in the folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(settings(**{"batch_size": 4, "processes": 2} | changes).model_dump(), file)
    return folder / "params.yaml"


def run(material, folder, params):
    return trainer.train(params, *material, folder / "state", folder / "log.txt")


def interrupt_at_5(material, folder, params, monkeypatch):
    """Train until SIGTERM arrives in the fifth step."""
    did_step = Run.did_step

    def stop_after_5(self):
        did_step(self)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(Run, "did_step", stop_after_5)
        run(material, folder, params)
    assert stopped.value.code == 143
    assert load_state(folder / "state")["step"] == 5
