"""Short trainings on the bright squares of tests/squares.py: parameters, hooks, and one that is stopped."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from m2det.config import Params, load_params
from m2det.train import train
from m2det.train.checkpoint import load_state
from m2det.train.state import Callbacks, TrainingState
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


def run(material, folder, params, callbacks=None):
    return train(params, *material, folder / "state", folder / "log.txt", callbacks=callbacks)


class AfterStep(Callbacks):
    """Call `action(state)` after each step that is named, or after every step."""

    def __init__(self, action: Callable[[TrainingState], object], *steps: int) -> None:
        self.action, self.steps = action, steps

    def on_step_end(self, state):
        if not self.steps or state.step in self.steps:
            self.action(state)


def interrupt_at_5(material, folder, params):
    """Train until SIGTERM arrives in the fifth step."""
    stop = AfterStep(lambda _: os.kill(os.getpid(), signal.SIGTERM), 5)
    with pytest.raises(SystemExit) as stopped:
        run(material, folder, params, stop)
    assert stopped.value.code == 143
    assert load_state(folder / "state")["step"] == 5
