"""The first of several nodes, as a process: PARAMS CACHE BACKBONE FOLDER, which takes the trained weights."""

import logging
import sys
from pathlib import Path

import torch

from m2det.config import load_params
from m2det.distributed.children import run_child, stage_process
from m2det.errors import InputError
from m2det.train.rank import train_distributed


def main(params_file: str, cache: str, backbone: str, folder: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    stage_process()
    params = load_params(params_file)
    processes = params.run.processes
    assert isinstance(processes, int)
    where = Path(folder)
    result = train_distributed(
        params, Path(params_file), Path(cache), Path(backbone), where / "state", processes, run_child
    )
    torch.save(result.model.state_dict(), where / "trained.pt")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
