"""The values that a run of the flow writes into params.yaml, from its recipe and its overrides.

DVC writes them: `dvc exp run --set-param` reads Hydra's grammar, in which keys may delete, add, or name another file,
and values may be functions or sweeps. So only keys of params.yaml are accepted, strings are always quoted, and DVC
first writes a copy, which must hold the intended values.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2det.config import check_params, dotted, parameter_keys
from m2det.config.recipes import read_recipe
from m2det.errors import InputError, explain_disk_errors, explain_missing_cann
from m2det.files.whole import temporary_folder
from m2det.files.yaml_file import read_yaml

PARAMS = Path("params.yaml")
MAX_BYTES = 100_000  # of a value on DVC's command line; Linux takes 131,072


def checked_changes(recipe: str | None, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the recipe's values, replaced by the overrides, by keys such as train.lr.

    Raises:
        InputError: a recipe or key does not exist, params.yaml with the values would not be valid, or DVC would write
            other values.
    """
    for key in overrides or {}:
        _check_key(key)
    changes = (dotted(read_recipe(recipe)[1]) if recipe is not None else {}) | dict(overrides or {})
    if not changes:
        return {}
    intended = _with(read_yaml(PARAMS), changes)
    where = f"{PARAMS} with this run's {' and '.join(['recipe'] * bool(recipe) + ['overrides'] * bool(overrides))}"
    params = check_params(intended, where)
    if any(key.startswith("model.") for key in changes):
        with explain_missing_cann():
            from m2det.model import get_config
        try:
            get_config(params.model.name, **params.model.all_overrides)
        except InputError as error:
            raise InputError(f"{where}: model: {error}") from error
    _rehearse(set_params(changes), intended)
    return changes


def set_params(changes: Mapping[str, Any]) -> list[str]:
    """Return arguments of `dvc exp run` that write these checked values into params.yaml."""
    settings = []
    for key, value in changes.items():
        if isinstance(value, dict):
            settings.append(f"++{key}=null")  # else Hydra merges the new mapping into the old one
        settings.append(f"++{key}={_hydra(value)}")
    return [f"--set-param={setting}" for setting in settings]


def _check_key(key: str) -> None:
    keys = parameter_keys()
    if key in keys:
        return
    section = [name for name in keys if name.startswith(f"{key}.")]
    if section:
        raise InputError(f"overrides: {key} is a section of {PARAMS}; give single keys of it, such as {section[0]}")
    if whole := [name for name in keys if key.startswith(f"{name}.")]:
        raise InputError(f"overrides: {whole[0]} is given as a whole; put the new value of it under that key")
    raise InputError(f"overrides: no key of {PARAMS} is called {key[:80]!a}; keys are such as epochs and train.lr")


def _with(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(values)
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        inner = values.setdefault(section, {}) if section else values
        if not isinstance(inner, dict):
            raise InputError(f"{PARAMS}: {section} must hold keys and values, like those the project came with")
        inner[name] = value
    return values


def _hydra(value: Any) -> str:
    """JSON, but for keys and for backslashes: only those before a quote or the end are doubled."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_hydra(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_hydra, value)) + "]"
    if isinstance(value, str):
        return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + m[2].replace('"', r"\""), value) + '"'
    return json.dumps(value)


def _rehearse(arguments: list[str], intended: dict[str, Any]) -> None:
    """Have DVC write a copy of params.yaml; raise InputError if it holds other values than the intended ones."""
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides

    if longest := next((a for a in arguments if len(a.encode()) > MAX_BYTES), None):
        key = longest.partition("=")[2].partition("=")[0].removeprefix("++")
        raise InputError(f"overrides: {key} has more than {MAX_BYTES:,} bytes; write it into {PARAMS} instead")
    with temporary_folder() as folder:
        trial = folder / PARAMS.name
        with explain_disk_errors(trial):
            shutil.copy(PARAMS, trial)
        overrides = to_path_overrides(argument.partition("=")[2] for argument in arguments)
        assert list(overrides) == [PARAMS.name]
        try:
            apply_overrides(trial, overrides[PARAMS.name])
            written = read_yaml(trial)
        except OSError as error:
            with explain_disk_errors(PARAMS):  # the copy has its permissions
                raise OSError(error.errno, error.strerror) from error
        except Exception as error:  # any error of DVC, Hydra, OmegaConf or ruamel.yaml
            raise InputError(_refusal(str(error) or type(error).__name__)) from error
    if json.dumps(written, sort_keys=True) != json.dumps(intended, sort_keys=True):
        raise InputError(_refusal("other values came out"))


def _refusal(reason: str) -> str:
    return (
        f"overrides: DVC cannot write this run's values into {PARAMS} ({' '.join(reason.split())[:200]}); it breaks "
        "comments between the entries of lists and blocks that it replaces: move them, or edit the file yourself"
    )
