"""One of several training processes, as torchrun starts them: PARAMS CACHE BACKBONE UNFINISHED."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

from m2det.errors import InputError, cann_explained
from m2det.process import die_with_parent


def main(params_file: str, cache: str, backbone: str, unfinished: str) -> None:
    """Train; rank 0 leaves the outcome in UNFINISHED. Wrong input leaves its sentence there and exits with 1."""
    die_with_parent(os.getppid())  # torchrun puts us into a session of our own and leaves us when it is killed
    import torch

    from m2det.config import load_params
    from m2det.train.group import Group
    from m2det.train.launch import ERROR, OUTCOME
    from m2det.train.loop import train

    group, folder = Group.from_environment(), Path(unfinished)
    level = logging.INFO if group.leads else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    try:
        outcome = train(load_params(params_file), Path(cache), Path(backbone), folder, folder / "log.txt", group)
    except InputError as error:
        with suppress(FileExistsError), (folder / ERROR).open("x") as file:  # the first to say something is heard
            file.write(str(error))
        sys.exit(1)
    if group.leads:
        content = {
            "model": outcome.model.state_dict(),
            "rows": outcome.rows,
            "steps": outcome.steps,
            "kept_epoch": outcome.kept_epoch,
        }
        torch.save(content, folder / f"{OUTCOME}.tmp")
        os.replace(folder / f"{OUTCOME}.tmp", folder / OUTCOME)


if __name__ == "__main__":
    try:
        with cann_explained():
            main(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
