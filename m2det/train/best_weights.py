"""The files of the best weights in a run directory: two copies each, because all later checkpoints rely on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from m2det.files.torch_file import DamagedFileError, load_checked, save_checked, verify

log = logging.getLogger(__name__)

KEPT = 2  # the checkpoint that names the newest is written later than these


def best_file(epoch: int) -> str:
    """Return the name of the file that holds the weights of `epoch`."""
    return f"best-{epoch:06d}.pt"


def save_best(run_dir: Path, file: str, weights: Mapping[str, Tensor]) -> None:
    """Write the weights and their copy. Raises InputError for a full disk.

    Nothing names them yet, so the previous best weights stay, too.
    """
    for path in _copies(run_dir, file):
        save_checked(path, {"model": weights})
    for path in sorted(run_dir.glob("best-*.pt"))[:-KEPT]:
        for copy in _copies(run_dir, path.name):
            copy.unlink(missing_ok=True)


def load_best(run_dir: Path, file: str, model: nn.Module) -> None:
    """Load what save_best wrote into the model. Raises DamagedFileError where both copies are damaged."""
    model.load_state_dict(load_checked(intact_copy(run_dir, file))["model"])


def intact_copy(run_dir: Path, file: str) -> Path:
    """Return the first intact copy, and warn of a damaged one. Raises DamagedFileError where both are damaged."""
    first, second = _copies(run_dir, file)
    try:
        verify(first)
        return first
    except DamagedFileError as error:
        verify(second)
        log.warning("warning: %s; its copy is used", error)
        return second


def _copies(run_dir: Path, file: str) -> tuple[Path, Path]:
    return run_dir / file, run_dir / f"{file}.copy"
