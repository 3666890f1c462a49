"""Read params.yaml, and name in one sentence what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from m2det.config.schema import Params
from m2det.config.values import shown
from m2det.errors import InputError
from m2det.files.yaml_file import read_yaml

MAX_FAULTS = 5  # of one file, that are printed


def load_params(path: str | Path) -> Params:
    """Read and check a params.yaml.

    Raises:
        InputError: names the file, every wrong key and what it should be.
    """
    path = Path(path)
    return check_params(read_yaml(path), str(path))


def check_params(raw: dict[str, Any], where: str) -> Params:
    """Return the parameters in a file's keys and values.

    Args:
        raw: the keys and values.
        where: the file, for the error.

    Raises:
        InputError: begins with `where` and names wrong keys and what they should be.
    """
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        faults = list(dict.fromkeys(_sentence(e, raw) for e in error.errors()))
        more = [f"and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
        raise InputError(f"{where}: " + "; ".join(faults[:MAX_FAULTS] + more)) from error


def _sentence(error: Any, raw: dict[str, Any]) -> str:
    # a union (`processes`) reports each of its members under a name of its own: keep the user's keys only
    keys: list[str] = []
    value: Any = raw
    for part in error["loc"]:
        if not (isinstance(value, dict) and part in value) and not (isinstance(value, list) and isinstance(part, int)):
            break
        keys.append(str(part) if re.fullmatch(r"\w{1,60}", str(part)) else shown(part))
        value = value[part]
    name = ".".join(keys)
    if error["type"] == "extra_forbidden":
        return f"unknown key '{name}' (remove it, or look for a typo)"
    if error["type"] == "missing":
        return f"key '{'.'.join(str(p) for p in error['loc'])}' is missing"
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}, got {shown(error['input'])}"
