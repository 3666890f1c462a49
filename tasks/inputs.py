"""What each stage is made of, by dvc.yaml: recorded when its process begins, compared before its result counts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from m2det.errors import InputError
from m2det.inputs import Inputs
from tasks.common import PARAMS


@cache
def inputs_of(stage: str) -> Inputs:
    """The params and deps that dvc.yaml lists for the stage, as they are at the first call.

    Of nothing for a stage that dvc.yaml does not list. What other stages make is data, the rest the project's files;
    another file of params counts as a whole.
    """
    stages = read_stages("dvc.yaml")
    if stage not in stages:
        return Inputs()
    params, made = stages[stage].get("params", []), {_name(out) for entry in stages.values() for out in _outs(entry)}
    deps = [*stages[stage]["deps"], *(_name(file) for file in params if not isinstance(file, str))]
    recorded = {out["path"]: out.get("md5", "") for entry in read_stages("dvc.lock").values() for out in _outs(entry)}
    return Inputs.record(
        str(PARAMS),
        [key for key in params if isinstance(key, str)],
        [dep for dep in deps if dep not in made],
        [dep for dep in deps if dep in made],
        recorded,
    )


def require_unchanged(stage: str, kept: Path | None = None) -> None:
    """Raise InputError where the stage's inputs are no longer those that it began with.

    kept: the folder where `Inputs.keep` wrote, of a stage whose finished state waits there to be published.
    """
    inputs = inputs_of(stage)
    changes = inputs.changes()
    if not changes:
        return
    what = (
        f"inputs changed while {stage} ran: {'; '.join(change.text for change in changes)}; its result is not recorded"
    )
    if kept is None:
        raise InputError(f"{what}: give the same command again, and {stage} runs with the inputs as they are now")
    raise InputError(
        f"{what}, but kept. To publish it, undo the changes and give the same command again: "
        f"{inputs.undo(changes, kept)}. To run anew with the inputs as they are now, just give the command again"
    )


def read_stages(name: str) -> dict[str, Any]:
    """The stages of dvc.yaml or dvc.lock by name; none where no such file is."""
    path = Path(name)
    return YAML(typ="safe").load(path)["stages"] if path.exists() else {}


def _outs(entry: dict[str, Any]) -> list[Any]:
    return [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]


def _name(out: str | dict[str, Any]) -> str:
    """An out of dvc.yaml is its path, or a mapping from it to options."""
    return out if isinstance(out, str) else next(iter(out))
