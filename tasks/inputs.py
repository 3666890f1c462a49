"""What each stage is made of, by dvc.yaml: recorded when its process begins, compared before its result counts."""

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

_finished: dict[str, Path] = {}  # stage -> the folder where its finished state waits until its inputs were compared


@cache
def inputs_of(stage: str) -> Inputs:
    """The params and deps that dvc.yaml lists for the stage, as they are at the first call.

    Nothing for a stage that dvc.yaml does not list. What other stages make is data, the rest the project's files;
    another file of params counts as a whole.
    """
    stages = read_stages("dvc.yaml")
    if stage not in stages:
        return Inputs()
    params = stages[stage].get("params", [])
    deps = [*stages[stage]["deps"], *(_name(file) for file in params if not isinstance(file, str))]
    made = {_name(out): (maker, out) for maker, entry in stages.items() for out in outs_of(entry)}
    md5 = {out["path"]: out.get("md5", "") for entry in read_stages("dvc.lock").values() for out in outs_of(entry)}
    return Inputs.record(
        str(PARAMS),
        [key for key in params if isinstance(key, str)],
        [dep for dep in deps if dep not in made],
        {dep: (md5.get(dep, ""), _restore(dep, *made[dep])) for dep in deps if dep in made},
    )


def finished_in(stage: str, folder: Path) -> Path:
    """Say that the stage's finished state lies in the folder until `conclude`; its inputs are kept there.

    Returns the kept params.yaml.
    """
    _finished[stage] = folder
    return inputs_of(stage).keep(folder / FOLDER)


def require_unchanged(stage: str) -> None:
    """Raise InputError where the stage's inputs are no longer those that it began with."""
    inputs = inputs_of(stage)
    changes = inputs.changes()
    if not changes:
        return
    what = "; ".join(change.text for change in changes)
    what = f"inputs changed while {stage} ran: {what}; its result is not recorded"
    if stage not in _finished:
        raise InputError(f"{what}: give the same command again, and {stage} runs with the inputs as they are now")
    raise InputError(
        f"{what}, but kept. To publish it, undo the changes and give the same command again: "
        f"{inputs.undo(changes, _finished[stage] / FOLDER)}. To go on with the inputs as they are now, just give the "
        "command again"
    )


def conclude(stage: str) -> None:
    """The end of each stage: its inputs are compared for the last time, then a finished state is removed."""
    require_unchanged(stage)
    if folder := _finished.get(stage):
        with locked(folder):
            shutil.rmtree(folder)


def read_stages(name: str) -> dict[str, Any]:
    """The stages of dvc.yaml or dvc.lock by name; none where no such file is."""
    path = Path(name)
    return YAML(typ="safe").load(path)["stages"] if path.exists() else {}


def outs_of(entry: dict[str, Any]) -> list[Any]:
    """All outputs of a stage's entry, metrics and plots among them."""
    return [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]


def is_cached(out: str | dict[str, Any]) -> bool:
    """Whether DVC's cache keeps this out of dvc.yaml."""
    return isinstance(out, str) or next(iter(out.values())).get("cache", True)


def _restore(dep: str, maker: str, out: str | dict[str, Any]) -> str:
    command = ["dvc", "checkout", "--force", dep] if is_cached(out) else ["dvc", "repro", "--single-item", maker]
    return shlex.join(command)


def _name(out: str | dict[str, Any]) -> str:
    """An out of dvc.yaml is its path, or a mapping from it to options."""
    return out if isinstance(out, str) else next(iter(out))
