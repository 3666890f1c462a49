"""The state of an unfinished training."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from m2det.errors import InputError
from m2det.files.torch_file import Damaged, load_checked, save_checked, verify

log = logging.getLogger(__name__)

VERSION = 3
KEPT = 2  # the last one may be what a failing disk spoils


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write {version, **state} as the checkpoint of state["step"]; the last two are kept.

    state holds tensors and plain types only, so that it loads with weights_only=True; state["best"]["file"] names
    the file of save_best that belongs to it, if any.
    Raises InputError for a full disk; the checkpoints from before are then as they were.
    """
    save_checked(folder / f"step-{state['step']:09d}.pt", {"version": VERSION, **state})
    for path in checkpoints(folder)[:-KEPT]:
        path.unlink()


def best_file(epoch: int) -> str:
    return f"best-{epoch:06d}.pt"


def save_best(folder: Path, epoch: int, model: nn.Module) -> None:
    """Keep the model's weights as those of `epoch`, twice: every later checkpoint relies on them.

    The checkpoint that names them comes later, so two epochs are kept.
    """
    for path in _copies(folder, best_file(epoch)):
        save_checked(path, {"model": model.state_dict()})
    for path in sorted(folder.glob("best-*.pt"))[:-KEPT]:
        for copy in _copies(folder, path.name):
            copy.unlink(missing_ok=True)


def load_best(folder: Path, file: str, model: nn.Module) -> None:
    """Put what save_best has kept into the model. Raises Damaged where neither copy is what was written."""
    model.load_state_dict(load_checked(_whole_copy(folder, file))["model"])


def _copies(folder: Path, file: str) -> tuple[Path, Path]:
    return folder / file, folder / f"{file}.copy"


def _whole_copy(folder: Path, file: str) -> Path:
    """The first copy that is as it was written; a warning names one that is not. Raises Damaged where none is."""
    first, second = _copies(folder, file)
    try:
        verify(first)
        return first
    except Damaged as error:
        verify(second)
        log.warning("warning: %s; its copy is used", error)
        return second


def checkpoints(folder: Path) -> list[Path]:
    """Those of an unfinished run, oldest first."""
    return sorted(folder.glob(f"step-{'[0-9]' * 9}.pt"))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))


def load_state(folder: Path) -> dict[str, Any] | None:
    """The last saved state, on the CPU, or None where this run has not saved any.

    One that is damaged, or whose best weights are, is passed over with a warning: the one before leads to the same
    model. Raises InputError where none is left, and for one of another version.
    """
    damage = None
    for path in reversed(checkpoints(folder)):
        try:
            return _load(path)
        except Damaged as error:
            log.warning("warning: %s; the checkpoint before it is looked for", error)
            damage = error
    if damage:
        raise InputError(f"no checkpoint in {folder} can be used ({damage}); delete the folder to start anew")
    return None


def _load(path: Path) -> dict[str, Any]:
    state = load_checked(path)
    if not isinstance(state, dict) or state.get("step") != step_of(path):
        raise Damaged(f"{path} holds something else than the checkpoint of its step")
    if state["version"] != VERSION:
        raise InputError(f"{path} has version {state['version']}, this code reads {VERSION}; delete it to start anew")
    if file := state["best"]["file"]:
        _whole_copy(path.parent, file)
    return state


def discard_after(folder: Path, step: int) -> None:
    """Remove checkpoints of later steps, which were passed over, and what was half written when a run was killed."""
    for path in [path for path in checkpoints(folder) if step_of(path) > step] + [*folder.glob("*.tmp")]:
        log.info("removed: %s", path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
