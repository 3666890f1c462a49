"""The checkpoint files of a run directory: two last states, and the best weights."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from m2det.errors import InputError
from m2det.files.torch_file import DamagedFileError, load_checked, save_checked, verify

log = logging.getLogger(__name__)

VERSION = 4
KEPT = 2  # a failing disk may damage the last one


def save_state(run_dir: Path, state: dict[str, Any]) -> None:
    """Write {version, **state} as the checkpoint of state["step"], and keep the one before it.

    Args:
        run_dir: the run directory.
        state: tensors and plain types only, so that it loads with weights_only=True; state["best"]["file"] names the
            file of save_best that belongs to it, if any.

    Raises:
        InputError: the disk is full; the earlier checkpoints are then unchanged.
    """
    save_checked(run_dir / f"step-{state['step']:09d}.pt", {"version": VERSION, **state})
    for path in checkpoints(run_dir)[:-KEPT]:
        path.unlink()


def best_file(epoch: int) -> str:
    """Return the name of the file that holds the weights of `epoch`."""
    return f"best-{epoch:06d}.pt"


def save_best(run_dir: Path, epoch: int, model: nn.Module) -> None:
    """Write the model's weights as those of `epoch`, and a copy, because every later checkpoint relies on them.

    The checkpoint that names them is written later, so the previous best weights stay, too.
    """
    for path in _copies(run_dir, best_file(epoch)):
        save_checked(path, {"model": model.state_dict()})
    for path in sorted(run_dir.glob("best-*.pt"))[:-KEPT]:
        for copy in _copies(run_dir, path.name):
            copy.unlink(missing_ok=True)


def load_best(run_dir: Path, file: str, model: nn.Module) -> None:
    """Load what save_best wrote into the model. Raises DamagedFileError where both copies are damaged."""
    model.load_state_dict(load_checked(_intact_copy(run_dir, file))["model"])


def _copies(run_dir: Path, file: str) -> tuple[Path, Path]:
    return run_dir / file, run_dir / f"{file}.copy"


def _intact_copy(run_dir: Path, file: str) -> Path:
    """Return the first intact copy, and warn of a damaged one. Raises DamagedFileError where both are damaged."""
    first, second = _copies(run_dir, file)
    try:
        verify(first)
        return first
    except DamagedFileError as error:
        verify(second)
        log.warning("warning: %s; its copy is used", error)
        return second


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoint files, oldest first."""
    return sorted(run_dir.glob(f"step-{'[0-9]' * 9}.pt"))


def step_of(checkpoint: Path) -> int:
    """Return the number of steps done in a checkpoint, by its name."""
    return int(checkpoint.stem.removeprefix("step-"))


def last_step(run_dir: Path) -> int:
    """Return the steps done in the last checkpoint, 0 without any."""
    return max(map(step_of, checkpoints(run_dir)), default=0)


def load_state(run_dir: Path) -> dict[str, Any] | None:
    """Return the last saved state, on the CPU, or None where nothing has been saved.

    A checkpoint that is damaged, or whose best weights are, is skipped with a warning: the one before it leads to the
    same model.

    Raises:
        InputError: all checkpoints are damaged, or one has another version.
    """
    damage = None
    for path in reversed(checkpoints(run_dir)):
        try:
            return _load(path)
        except DamagedFileError as error:
            log.warning("warning: %s; the checkpoint before it is looked for", error)
            damage = error
    if damage:
        raise InputError(f"no checkpoint in {run_dir} can be used ({damage}); delete the folder to start anew")
    return None


def _load(path: Path) -> dict[str, Any]:
    state = load_checked(path)
    if not isinstance(state, dict) or state.get("step") != step_of(path):
        raise DamagedFileError(f"{path} holds something else than the checkpoint of its step")
    if state["version"] != VERSION:
        raise InputError(
            f"{path} has version {state['version']}, this code reads {VERSION}: finish the training with the code that "
            "began it, or delete the folder to start anew"
        )
    if file := state["best"]["file"]:
        _intact_copy(path.parent, file)
    return state


def discard_after(run_dir: Path, step: int) -> None:
    """Remove checkpoints of later steps, which load_state skipped, and half-written files of a killed run."""
    for path in [path for path in checkpoints(run_dir) if step_of(path) > step] + [*run_dir.glob("*.tmp")]:
        log.info("removed: %s", path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
