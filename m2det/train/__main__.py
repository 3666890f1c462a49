"""One of several training processes, as torchrun starts them: PARAMS CACHE BACKBONE UNFINISHED."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from m2det.config import load_params
from m2det.errors import writing
from m2det.files.torch_file import save_checked
from m2det.group import Group
from m2det.torchrun import as_one_of_several
from m2det.train.launch import OUTCOME
from m2det.train.loop import train
from m2det.unfinished import only_writer


def main(params_file: str, cache: str, backbone: str, unfinished: str) -> None:
    """Train; rank 0 leaves the outcome in UNFINISHED."""
    params, folder = load_params(params_file), Path(unfinished)

    def work(group: Group) -> None:
        # the process group is joined before any rank reads a checkpoint, so rank 0 has the folder by then
        with writing(folder), only_writer(folder) if group.leads else nullcontext():
            outcome = train(params, Path(cache), Path(backbone), folder, folder / "log.txt", group)
        if group.leads:
            content = {
                "model": outcome.model.state_dict(),
                "rows": outcome.rows,
                "steps": outcome.steps,
                "kept_epoch": outcome.kept_epoch,
            }
            save_checked(folder / OUTCOME, content)

    as_one_of_several(work, folder, params.train.stop_grace)


if __name__ == "__main__":
    main(*sys.argv[1:])
