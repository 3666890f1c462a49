"""Several processes that train together: how they are started, and what comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from m2det.config import Params
from m2det.data.store import PackedSplit
from m2det.device import choose_device
from m2det.errors import InputError
from m2det.model import build_model
from m2det.train.run import Outcome

ERROR, OUTCOME = "error.txt", "outcome.pt"  # in the folder of the unfinished run


def count_processes(params: Params) -> int:
    """params.processes; auto is one per accelerator, one on a CPU. Raises InputError for more than there are."""
    device = choose_device(params.device)
    devices = 1 if device.type == "cpu" else torch.accelerator.device_count()
    if params.processes == "auto":
        return devices
    if device.type != "cpu" and params.processes > devices:
        raise InputError(f"processes is {params.processes}, but this machine has {devices} {device.type} devices")
    return params.processes


def train_together(
    params: Params,
    params_file: Path,
    cache: Path,
    backbone: Path,
    unfinished: Path,
    processes: int,
    run_child: Callable[[Sequence[str]], None],
) -> Outcome:
    """Train by torchrun with `processes` processes on this machine; see m2det.train.__main__ for what each does.

    run_child runs a command to its end, ends it when we are to end, and raises CalledProcessError if it fails.
    Raises InputError with the sentence of the first process that had one to say.
    """
    unfinished.mkdir(parents=True, exist_ok=True)
    (unfinished / ERROR).unlink(missing_ok=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    try:
        run_child([*torchrun, "-m", "m2det.train", *map(str, (params_file, cache, backbone, unfinished))])
    except subprocess.CalledProcessError as error:
        if (unfinished / ERROR).exists():
            raise InputError((unfinished / ERROR).read_text()) from error
        raise InputError(
            f"the training ended with exit code {error.returncode}; the first traceback above says why"
        ) from error
    saved = torch.load(unfinished / OUTCOME, map_location="cpu", weights_only=True)
    model = build_model(params.model.name, len(PackedSplit(cache, "train").classes), **params.model.all_overrides)
    model.load_state_dict(saved["model"])
    return Outcome(model, saved["rows"], saved["steps"], saved["kept_epoch"])
