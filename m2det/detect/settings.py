"""The parameters of a call from Python: a recipe, its section `data` from the caller, and changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m2det.config import Params, check_params
from m2det.config.recipes import read_recipe
from m2det.config.schema import defaults

Data = str | Path | dict[str, Any]  # a folder, or a section `data`


def recipe_params(data: Data, recipe: str, changes: dict[str, Any], caller: str, device: str = "auto") -> Params:
    """Return a recipe's parameters with changes, for data of the format that they have.

    Args:
        data: A folder, or a section `data` in which what is left out has its default, and `source` is auto.
        recipe: Its name.
        changes: As in params.yaml: epochs, seed, and sections with some of their keys.
        caller: Names the call in an error.
        device: run.device, unless the changes have it.

    Raises:
        InputError: The recipe, a key or a value is wrong.
    """
    given = data if isinstance(data, dict) else {"root": str(data)}
    values = read_recipe(recipe)[1] | {"data": defaults()["data"] | {"source": "auto"} | given}
    values["run"]["device"] = device
    for key, value in changes.items():
        section = values.get(key)
        values[key] = section | value if isinstance(section, dict) and isinstance(value, dict) else value
    return check_params(values, caller)
