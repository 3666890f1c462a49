"""The folders of unfinished trainings: what each is, and which there are."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2det.config import dotted
from m2det.errors import InputError
from m2det.files.locks import locked
from m2det.files.whole import write_whole
from m2det.train.checkpoint import checkpoints, step_of

log = logging.getLogger(__name__)

WHAT = "run.json"
SHOWN = ("model.name", "epochs", "seed")  # of a run, in the list of all


@dataclass(frozen=True)
class Unfinished:
    """One folder: what shapes its run (dotted keys), the steps done, and its size in bytes."""

    folder: Path
    shape: dict[str, Any]
    step: int
    size: int


def write_run_config(folder: Path, shape: dict[str, Any]) -> None:
    """Write down what shapes the run; where it is new, log in what it differs from the nearest unfinished one."""
    flat = dotted(shape)
    if not (folder / WHAT).exists():
        others = [run for run in unfinished_runs(folder.parent) if run.folder != folder]
        differences = [(differing(flat, run.shape), run) for run in others]
        if differences:
            nearest, run = min(differences, key=lambda pair: len(pair[0]))
            log.info("a new run; %s, unfinished at step %d, has other %s", run.folder, run.step, ", ".join(nearest))
    write_whole(folder / WHAT, json.dumps(flat, indent=1, sort_keys=True) + "\n")


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The keys whose values differ, and those that only one has."""
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def unfinished_runs(root: Path) -> list[Unfinished]:
    """All under `root` (models/unfinished), by name; one whose description is damaged is left out with a warning."""
    runs = []
    for folder in sorted(path.parent for path in root.glob(f"*/{WHAT}")):
        try:
            shape = json.loads((folder / WHAT).read_text())
        except (OSError, ValueError):
            shape = None
        if not isinstance(shape, dict) or not shape.keys() >= set(SHOWN):
            log.warning(
                "warning: %s is damaged; `m2det runs delete %s` removes the run", folder / WHAT, folder.name
            )
            continue
        saved = checkpoints(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        runs.append(Unfinished(folder, shape, step_of(saved[-1]) if saved else 0, size))
    return runs


def delete(root: Path, name: str) -> None:
    """Remove one folder. Raises InputError where it is not there or somebody trains in it."""
    folder = root / name
    if not (folder / WHAT).exists():
        names = ", ".join(run.folder.name for run in unfinished_runs(root)) or "none"
        raise InputError(f"{folder} is no unfinished training; there are: {names}")
    with locked(folder):
        shutil.rmtree(folder)
