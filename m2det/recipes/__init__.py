"""Complete, named parameter sets: the files NAME.yaml in this folder, each beginning with what it promises."""

from __future__ import annotations

import io
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from m2det.errors import InputError

END_OF_HEADER = "#"  # the comment line in params.yaml below what the recipe says of itself


def recipe_names() -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if ".yaml" in entry.name)


def read_recipe(name: str) -> tuple[str, dict[str, Any]]:
    """The recipe's comment, and its values: all of params.yaml but where the data lies.

    Raises InputError for a name that does not exist.
    """
    if name not in recipe_names():
        raise InputError(f"no recipe is called {name!r}; there are {', '.join(recipe_names())}")
    text = (files(__name__) / f"{name}.yaml").read_text()
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    return header, YAML(typ="safe").load(text)


def use_recipe(name: str, path: Path) -> list[str]:
    """Write the recipe into a params.yaml, keeping its comments and order, and the user's data.root.

    Returns what changed, as `key: old -> new`. Raises InputError where there is no such recipe or file.
    """
    header, values = read_recipe(name)
    if not path.exists():
        raise InputError(f"{path}: no such file; run this in the project's folder, where params.yaml lies")
    yaml = YAML()
    lines = path.read_text().splitlines(keepends=True)
    content = yaml.load("".join(lines))
    changes = _put(content, values, "")
    out = io.StringIO()
    yaml.dump(content, out)
    below = out.getvalue().splitlines(keepends=True)
    stripped = [line.rstrip() for line in below]
    comment = next((i for i, line in enumerate(below) if not line.startswith("#")), 0)
    if END_OF_HEADER in stripped[:comment]:
        below = below[stripped.index(END_OF_HEADER) :]
    else:
        header += END_OF_HEADER + "\n"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(header + "".join(below))
    os.replace(temporary, path)
    return changes


def _put(content: CommentedMap, values: dict[str, Any], where: str) -> list[str]:
    changes = []
    for key, value in values.items():
        old = content.get(key)
        if isinstance(value, dict) and value:
            changes += _put(content.setdefault(key, CommentedMap()), value, f"{where}{key}.")
        elif old != value:
            changes.append(f"{where}{key}: {old} -> {value}")
            content[key] = _in_line(value)
    return changes


def _in_line(value: Any) -> Any:
    """Lists and empty mappings as [1, 2] and {}, as params.yaml has them."""
    if isinstance(value, list | dict):
        made = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
        made.fa.set_flow_style()
        return made
    return value
