"""One of several training processes, as torchrun starts them: PARAMS CACHE BACKBONE UNFINISHED."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from m2det.config import Params, load_params
from m2det.data.packed.reader import PackedSplit
from m2det.distributed.group import Group
from m2det.distributed.launch import RunChild, launch, run_worker
from m2det.errors import InputError, writing
from m2det.files.locks import exclusive_writer_lock
from m2det.files.torch_file import Damaged, load_checked, save_checked
from m2det.model import build_model
from m2det.train.state import TrainResult
from m2det.train.trainer import train


def main(params_file: str, cache: str, backbone: str, unfinished: str) -> None:
    """Train; rank 0 leaves the outcome in UNFINISHED."""
    params, folder = load_params(params_file), Path(unfinished)

    def work(group: Group) -> None:
        # the process group is joined before any rank reads a checkpoint, so rank 0 has the folder by then
        with writing(folder), exclusive_writer_lock(folder) if group.is_main_process else nullcontext():
            outcome = train(params, Path(cache), Path(backbone), folder, folder / "log.txt", group)
        if group.is_main_process:
            content = {
                "model": outcome.model.state_dict(),
                "rows": outcome.rows,
                "steps": outcome.steps,
                "kept_epoch": outcome.kept_epoch,
            }
            save_checked(folder / OUTCOME, content)

    run_worker(work, folder, params.run.stop_grace)


if __name__ == "__main__":
    main(*sys.argv[1:])


OUTCOME = "outcome.pt"  # in the folder of the unfinished run


def train_distributed(
    params: Params,
    params_file: Path,
    cache: Path,
    backbone: Path,
    unfinished: Path,
    processes: int,
    run_child: RunChild,
) -> TrainResult:
    """Train by torchrun with `processes` processes on this machine; see m2det.train.rank for what each does.

    Raises InputError with the sentence of the first process that had one to say.
    """
    arguments = (params_file, cache, backbone, unfinished)
    launch("m2det.train.rank", arguments, params, processes, unfinished, run_child)
    try:
        saved = load_checked(unfinished / OUTCOME)
    except Damaged as error:
        raise InputError(f"{error}; give the same command again: it continues from the last checkpoint") from error
    model = build_model(params.model.name, len(PackedSplit(cache, "train").classes), **params.model.all_overrides)
    model.load_state_dict(saved["model"])
    return TrainResult(model, saved["rows"], saved["steps"], saved["kept_epoch"])
