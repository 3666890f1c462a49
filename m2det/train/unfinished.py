"""The folders of unfinished trainings: who works on one, what it is, and which there are."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2det.config import dotted
from m2det.errors import InputError
from m2det.train.checkpoint import checkpoints, step_of

log = logging.getLogger(__name__)

LOCK, WRITER, WHAT = "lock", "writer", "run.json"


@dataclass(frozen=True)
class Unfinished:
    """One folder: what shapes its run (dotted keys), the steps done, and its size in bytes."""

    folder: Path
    shape: dict[str, Any]
    step: int
    size: int


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else works on the folder inside; the kernel lets go of it when this process ends, however it ends.

    Raises InputError naming the process that does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(f"the process {file.read()} trains in {folder} already; wait for it, or end it") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """For the process that writes checkpoints: it waits for an earlier run's, which may be about to end, to be gone."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / WRITER).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def introduce(folder: Path, shape: dict[str, Any]) -> None:
    """Write down what shapes the run; where it is new, log in what it differs from the nearest unfinished one."""
    flat = dotted(shape)
    if not (folder / WHAT).exists():
        others = [run for run in unfinished_runs(folder.parent) if run.folder != folder]
        differences = [(differing(flat, run.shape), run) for run in others]
        if differences:
            nearest, run = min(differences, key=lambda pair: len(pair[0]))
            log.info("a new run; %s, unfinished at step %d, has other %s", run.folder, run.step, ", ".join(nearest))
    (folder / WHAT).write_text(json.dumps(flat, indent=1, sort_keys=True) + "\n")


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The keys whose values differ, and those that only one has."""
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def unfinished_runs(root: Path) -> list[Unfinished]:
    """All under `root` (models/unfinished), by name."""
    runs = []
    for folder in sorted(path.parent for path in root.glob(f"*/{WHAT}")):
        saved = checkpoints(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        runs.append(
            Unfinished(folder, json.loads((folder / WHAT).read_text()), step_of(saved[-1]) if saved else 0, size)
        )
    return runs


def delete(root: Path, name: str) -> None:
    """Remove one folder. Raises InputError where it is not there or somebody trains in it."""
    folder = root / name
    if not (folder / WHAT).exists():
        names = ", ".join(run.folder.name for run in unfinished_runs(root)) or "none"
        raise InputError(f"{folder} is no unfinished training; there are: {names}")
    with locked(folder):
        shutil.rmtree(folder)
