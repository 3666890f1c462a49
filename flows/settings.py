"""The settings of a run: those of params.yaml, replaced by the run's recipe, replaced by the run's overrides."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.parameters import flat
from m2det.config import check_params, dotted
from m2det.config.recipes import read_recipe, use_recipe
from m2det.errors import InputError, explain_missing_cann
from m2det.files.whole import write_whole
from m2det.files.yaml_file import read_yaml
from tasks.common import PARAMS


def checked_settings(recipe: str | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a run, as params.yaml holds them; no file is changed.

    Args:
        recipe: a name that `m2det recipes` lists, or None to take params.yaml as it is.
        overrides: values, nested as in params.yaml.

    Raises:
        InputError: a recipe or key does not exist, or the settings as a whole are not valid.
    """
    given = flat(overrides)
    changes = (dotted(read_recipe(recipe)[1]) if recipe is not None else {}) | given
    settings = _with(read_yaml(PARAMS), changes)
    said = ["recipe"] * (recipe is not None) + ["overrides"] * bool(given)
    where = f"{PARAMS} with this run's {' and '.join(said)}" if said else str(PARAMS)
    params = check_params(settings, where)
    if any(key.startswith("model.") for key in changes):
        with explain_missing_cann():
            from m2det.model import get_config
        try:
            get_config(params.model.name, **params.model.all_overrides)
        except InputError as error:
            raise InputError(f"{where}: model: {error}") from error
    return settings


def write_settings(path: Path, recipe: str | None, overrides: Mapping[str, Any]) -> None:
    """Write a recipe and overrides that `checked_settings` has accepted into a params.yaml; its comments stay."""
    if recipe is not None:
        use_recipe(recipe, path)
    yaml = YAML()
    content = yaml.load(path)
    for key, value in flat(overrides).items():
        section, _, name = key.rpartition(".")
        inner = content[section] if section else content
        if isinstance(inner.get(name), list | dict):
            inner.ca.items.pop(name, None)  # comments of a block do not fit another value
        inner[name] = copy.deepcopy(value)  # YAML would write an object that two keys share as an alias
    out = io.StringIO()
    yaml.dump(content, out)
    write_whole(path, out.getvalue())


def _with(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(values)
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        inner = values.setdefault(section, {}) if section else values
        if not isinstance(inner, dict):
            raise InputError(f"{PARAMS}: {section} must hold keys and values, like those the project came with")
        inner[name] = value
    return values
