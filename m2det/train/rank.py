"""One of several training processes, as torchrun starts them: PARAMS CACHE BACKBONE RUN_DIR [CURVES]."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from m2det.config import Params, load_params
from m2det.data.packed.reader import PackedSplit, cache_digest
from m2det.distributed.group import Group
from m2det.distributed.launch import RunChild, launch, run_worker
from m2det.distributed.nodes import Work
from m2det.errors import InputError, explain_disk_errors
from m2det.files.locks import exclusive_writer_lock
from m2det.files.torch_file import DamagedFileError, load_checked, save_checked
from m2det.model import build_model
from m2det.train.state import Callbacks, TrainResult
from m2det.train.trainer import train

RESULT_NAME = "outcome.pt"  # in the run directory


def main(
    params_file: str,
    cache: str,
    backbone: str,
    run_dir: str,
    curves: str | None = None,
    *,
    callbacks: Callbacks | None = None,
) -> None:
    """Train; rank 0 leaves the result in the run directory."""
    params, folder = load_params(params_file), Path(run_dir)
    curves_file = Path(curves) if curves else None

    def work(group: Group) -> None:
        # all ranks join the process group before they read a checkpoint, so rank 0 has the lock by then
        with explain_disk_errors(folder), exclusive_writer_lock(folder) if group.is_main_process else nullcontext():
            log_file = folder / "log.txt"
            result = train(params, Path(cache), Path(backbone), folder, log_file, group, callbacks, curves_file)
        if group.is_main_process:
            save_checked(folder / RESULT_NAME, vars(result) | {"model": result.model.state_dict()})

    run_worker(work, folder, params.run.stop_grace)


def train_distributed(
    params: Params,
    params_file: Path,
    cache: Path,
    backbone: Path,
    run_dir: Path,
    processes: int,
    run_child: RunChild,
    curves_file: Path | None = None,
) -> TrainResult:
    """Train in several processes, of this machine and of other nodes, started by torchrun.

    Args:
        params: the content of params_file.
        params_file: read by every process.
        cache: the packed cache.
        backbone: pretrained weights.
        run_dir: takes the checkpoints, the log and the result.
        processes: how many, of each node.
        run_child: starts torchrun.
        curves_file: as for `train`.

    Raises:
        InputError: with the sentence of the first process that failed, or for a damaged result.
        SystemExit: a signal stopped the processes.
    """
    arguments = (params_file, cache, backbone, run_dir, *filter(None, [curves_file]))
    inputs = (params_file, backbone)
    work = Work("m2det.train.rank", arguments, run_dir, inputs, cache, cache_digest(cache))
    launch(work, params, processes, run_child)
    try:
        saved = load_checked(run_dir / RESULT_NAME)
    except DamagedFileError as error:
        raise InputError(f"{error}; give the same command again: it continues from the last checkpoint") from error
    model = build_model(params.model.name, len(PackedSplit(cache, "train").classes), **params.model.all_overrides)
    model.load_state_dict(saved["model"])
    return TrainResult(**saved | {"model": model})


if __name__ == "__main__":
    main(*sys.argv[1:])
