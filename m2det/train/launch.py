"""A training in several processes: how it is started, and what comes back."""

from __future__ import annotations

from pathlib import Path

from m2det.config import Params
from m2det.data.store import PackedSplit
from m2det.errors import InputError
from m2det.files.torch_file import Damaged, load_checked
from m2det.model import build_model
from m2det.torchrun import RunChild, run_together
from m2det.train.run import Outcome

OUTCOME = "outcome.pt"  # in the folder of the unfinished run


def train_together(
    params: Params,
    params_file: Path,
    cache: Path,
    backbone: Path,
    unfinished: Path,
    processes: int,
    run_child: RunChild,
) -> Outcome:
    """Train by torchrun with `processes` processes on this machine; see m2det.train.__main__ for what each does.

    Raises InputError with the sentence of the first process that had one to say.
    """
    arguments = (params_file, cache, backbone, unfinished)
    run_together("m2det.train", arguments, params, processes, unfinished, run_child)
    try:
        saved = load_checked(unfinished / OUTCOME)
    except Damaged as error:
        raise InputError(f"{error}; give the same command again: it continues from the last checkpoint") from error
    model = build_model(params.model.name, len(PackedSplit(cache, "train").classes), **params.model.all_overrides)
    model.load_state_dict(saved["model"])
    return Outcome(model, saved["rows"], saved["steps"], saved["kept_epoch"])
