"""The run directories of unfinished trainings: describe, list and delete them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2det.config import dotted
from m2det.errors import InputError
from m2det.files.inputs import FOLDER, Inputs
from m2det.files.locks import locked
from m2det.files.whole import write_whole
from m2det.train.checkpoint import checkpoints, step_of

log = logging.getLogger(__name__)

CONFIG = "run.json"
LISTED_KEYS = ("model.name", "epochs", "seed")  # of a run, in the list of all
CODE, PARAMS = "hashes.code", "hashes.params"


@dataclass(frozen=True)
class Unfinished:
    """An unfinished training.

    Attributes:
        folder: its run directory.
        shape: everything that shapes the run, by dotted keys.
        step: steps done.
        size: of the folder, in bytes.
    """

    folder: Path
    shape: dict[str, Any]
    step: int
    size: int


def write_run_config(folder: Path, shape: dict[str, Any]) -> None:
    """Write what shapes the run to its directory; for a new run, log how it differs from the nearest unfinished one.

    Args:
        folder: the run directory.
        shape: sections of params.yaml and `hashes`.
    """
    config = dotted(shape)
    if not (folder / CONFIG).exists():
        differences = [
            (differing_keys(config, run.shape), run) for run in unfinished_runs(folder.parent) if run.folder != folder
        ]
        if differences:
            keys, run = min(differences, key=lambda pair: (len(pair[0]), pair[0] != [CODE]))
            text = _continue_with_old_code(run.folder) if keys == [CODE] else ""
            log.info(
                "a new run; %s, unfinished at step %d, has other %s", run.folder, run.step, text or ", ".join(keys)
            )
    write_whole(folder / CONFIG, json.dumps(config, indent=1, sort_keys=True) + "\n")


def _continue_with_old_code(folder: Path) -> str:
    """The files that differ from the run's copies, and the commands to continue it; "" if the copies say nothing."""
    try:
        inputs = Inputs.load(folder / FOLDER)
    except (OSError, ValueError, KeyError, TypeError):  # damaged
        return ""
    if not (changes := list(inputs.changed_sources())):
        return ""
    files, command = "; ".join(change.text for change in changes), inputs.undo(changes, folder / FOLDER)
    return (
        f"code, and nothing else: {files}. To continue that run, stop this one, commit or copy your edits, then: "
        f"{command}; and train again"
    )


def differing_keys(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the keys whose values differ, and those that only one has."""
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def keys_that_differ(runs: Sequence[Unfinished]) -> list[str]:
    """Return the keys that tell runs apart, beside those of LISTED_KEYS, sorted."""
    shapes = [run.shape for run in runs]
    keys = {key for shape in shapes for key in shape if key not in (*LISTED_KEYS, PARAMS)}
    return [key for key in sorted(keys) if any(shape.get(key) != shapes[0].get(key) for shape in shapes)]


def unfinished_runs(root: Path) -> list[Unfinished]:
    """Return all runs under `root` (models/unfinished), by name, without those whose run.json is damaged (logged)."""
    runs = []
    for folder in sorted(path.parent for path in root.glob(f"*/{CONFIG}")):
        try:
            shape = json.loads((folder / CONFIG).read_text())
        except (OSError, ValueError):
            shape = None
        if not isinstance(shape, dict) or not shape.keys() >= set(LISTED_KEYS):
            log.warning("warning: %s is damaged; `m2det runs delete %s` removes the run", folder / CONFIG, folder.name)
            continue
        saved = checkpoints(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        runs.append(Unfinished(folder, shape, step_of(saved[-1]) if saved else 0, size))
    return runs


def delete(root: Path, name: str) -> None:
    """Delete one run directory.

    Raises:
        InputError: no run has the name, or a process trains in it.
    """
    folder = root / name
    if not (folder / CONFIG).exists():
        names = ", ".join(run.folder.name for run in unfinished_runs(root)) or "none"
        raise InputError(f"{folder} is no unfinished training; there are: {names}")
    with locked(folder):
        shutil.rmtree(folder)
