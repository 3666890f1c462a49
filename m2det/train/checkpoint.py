"""The checkpoints of a run directory: the two last states, and what the evaluation of each has added.

step-000000006.pt           the state after step 6
step-000000006.evaluated    where an evaluation followed: the few values of the state that it changed; the best weights
                            that they name are written before, so this file is the evaluation's commit marker
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from m2det.errors import InputError
from m2det.files.torch_file import DamagedFileError, load_checked, save_checked
from m2det.train.best_weights import intact_copy, save_best

log = logging.getLogger(__name__)

VERSION = 5
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
    save_checked(_state_file(run_dir, state["step"]), {"version": VERSION, **state})
    for path in checkpoints(run_dir)[:-KEPT]:
        _evaluation_of(path).unlink(missing_ok=True)
        path.unlink()


def save_evaluation(run_dir: Path, evaluation: dict[str, Any]) -> None:
    """Write what the evaluation after a checkpoint has added to it.

    Args:
        run_dir: the run directory.
        evaluation: progress: the values of the state that are others after the evaluation, and the step;
            weights: the model's, where these are the best so far and are kept, in the file that progress names; or {}.

    Raises:
        InputError: the disk is full; the evaluation then runs again.
    """
    progress = evaluation["progress"]
    if evaluation["weights"]:
        save_best(run_dir, progress["best"]["file"], evaluation["weights"])
    save_checked(_evaluation_of(_state_file(run_dir, progress["step"])), progress)


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoint files, oldest first."""
    return sorted(run_dir.glob(f"step-{'[0-9]' * 9}.pt"))


def step_of(checkpoint: Path) -> int:
    """Return the number of steps done in a checkpoint, by its name."""
    return int(checkpoint.stem.removeprefix("step-"))


def last_step(run_dir: Path) -> int:
    """Return the steps done in the last checkpoint, 0 without any."""
    return max(map(step_of, checkpoints(run_dir)), default=0)


def _state_file(run_dir: Path, step: int) -> Path:
    return run_dir / f"step-{step:09d}.pt"


def _evaluation_of(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".evaluated")


def load_state(run_dir: Path) -> dict[str, Any] | None:
    """Return the last saved state, on the CPU, or None where nothing has been saved.

    A checkpoint that is damaged, or whose best weights are, is skipped with a warning: the one before it leads to the
    same model. So does an evaluation that runs again because what it added is damaged, also with a warning.

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
    evaluated = _load_evaluation(path) if _evaluation_of(path).exists() else {}
    if not evaluated:
        _require_best(path, state)
    return state | evaluated


def _load_evaluation(checkpoint: Path) -> dict[str, Any]:
    """Return what save_evaluation wrote, or {} with a warning where that is damaged, or the best weights are."""
    path = _evaluation_of(checkpoint)
    try:
        progress = load_checked(path)
        if not isinstance(progress, dict) or progress.get("step") != step_of(path):
            raise DamagedFileError(f"{path} holds something else than the evaluation of its step")
        _require_best(path, progress)
    except DamagedFileError as error:
        log.warning("warning: %s; the evaluation after step %d runs again", error, step_of(path))
        return {}
    return progress


def _require_best(path: Path, state: dict[str, Any]) -> None:
    if file := state["best"]["file"]:
        intact_copy(path.parent, file)


def discard_after(run_dir: Path, step: int, evaluated: bool) -> None:
    """Remove what load_state skipped, and half-written files of a killed run.

    Args:
        run_dir: the run directory.
        step: of the checkpoint that was loaded; later ones are removed.
        evaluated: whether its evaluation was loaded, too; else that is removed.
    """
    skipped = [path for path in checkpoints(run_dir) if step_of(path) > step]
    skipped += [path for path in run_dir.glob("step-*.evaluated") if step_of(path) >= step + evaluated]
    for path in [*skipped, *run_dir.glob("*.tmp")]:
        log.info("removed: %s", path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
