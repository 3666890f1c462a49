"""The inputs of each stage by dvc.yaml: recorded when its process begins, compared before its result counts."""

from __future__ import annotations

import shlex
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from m2det.errors import InputError
from m2det.files.inputs import FOLDER, Inputs
from m2det.files.locks import locked
from tasks.common import PARAMS

_finished: dict[str, Path] = {}  # stage -> folder of its finished state, until its inputs have been compared


@cache
def inputs_of(stage: str) -> Inputs:
    """Return the params and deps that dvc.yaml lists for the stage, as of the first call.

    A stage that dvc.yaml does not list has no inputs. Deps that other stages make are data, all others the project's
    files; a params file beside params.yaml counts as a whole.
    """
    stages = read_stages("dvc.yaml")
    if stage not in stages:
        return Inputs()
    params = stages[stage].get("params", [])
    deps = [*stages[stage]["deps"], *(path_of(file) for file in params if not isinstance(file, str))]
    made = {path_of(out): (maker, out) for maker, entry in stages.items() for out in outs_of(entry)}
    md5 = {out["path"]: out.get("md5", "") for entry in read_stages("dvc.lock").values() for out in outs_of(entry)}
    return Inputs.record(
        str(PARAMS),
        [key for key in params if isinstance(key, str)],
        [dep for dep in deps if dep not in made],
        {dep: (md5.get(dep, ""), restore(dep, *made[dep])) for dep in deps if dep in made},
    )


def finished_in(stage: str, folder: Path) -> Path:
    """Keep copies of the stage's inputs in the folder, which has its finished state until `conclude`.

    Returns:
        The copy of params.yaml: the values that this process read.
    """
    _finished[stage] = folder
    return inputs_of(stage).keep(folder / FOLDER)


def require_unchanged(stage: str) -> None:
    """Raise InputError if the stage's inputs have changed since it began."""
    inputs = inputs_of(stage)
    changes = inputs.changes()
    if not changes:
        return
    texts = "; ".join(change.text for change in changes)
    problem = f"inputs changed while {stage} ran: {texts}; its result is not recorded"
    if stage not in _finished:
        raise InputError(f"{problem}: give the same command again, and {stage} runs with the inputs as they are now")
    raise InputError(
        f"{problem}, but kept. To publish it, undo the changes and give the same command again: "
        f"{inputs.undo(changes, _finished[stage] / FOLDER)}. To go on with the inputs as they are now, just give the "
        "command again"
    )


def conclude(stage: str) -> None:
    """End a stage: compare its inputs for the last time, then delete its finished state."""
    require_unchanged(stage)
    if folder := _finished.get(stage):
        with locked(folder):
            shutil.rmtree(folder)


def read_stages(name: str) -> dict[str, Any]:
    """Return the stages of dvc.yaml or dvc.lock by name; none if the file does not exist."""
    path = Path(name)
    return YAML(typ="safe").load(path)["stages"] if path.exists() else {}


def outs_of(entry: dict[str, Any]) -> list[Any]:
    """Return all outputs of a stage's entry, with metrics and plots."""
    return [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]


def is_cached(out: str | dict[str, Any]) -> bool:
    """Return whether DVC's cache keeps an output, given as in dvc.yaml."""
    return isinstance(out, str) or next(iter(out.values())).get("cache", True)


def restore(dep: str, maker: str, out: str | dict[str, Any]) -> str:
    """Return the command that brings back what a stage made.

    Args:
        dep: Its path.
        maker: The stage.
        out: Its entry in dvc.yaml.
    """
    command = ["dvc", "checkout", "--force", dep] if is_cached(out) else ["dvc", "repro", "--single-item", maker]
    return shlex.join(command)


def path_of(out: str | dict[str, Any]) -> str:
    """Return the path of an output, given as in dvc.yaml: its path, or a mapping from its path to options."""
    return out if isinstance(out, str) else next(iter(out))
