"""Named parameter sets: the files recipes/NAME.yaml, each a comment and what differs from the schema's defaults."""

from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from m2det.config.document import comment
from m2det.config.schema import default, defaults, settings
from m2det.errors import InputError
from m2det.files.whole import replacing
from m2det.files.yaml_file import read_yaml

FOLDER = files("m2det") / "recipes"
END_OF_HEADER = "#\n"  # the comment line in params.yaml below the recipe's comment
COMMENT_COLUMN = 30  # of the comments in params.yaml
USERS_KEYS = ("data.root", "data.outside", "data.mirror")  # where the user's data lies: in no recipe


def recipe_names() -> list[str]:
    """Return the names of the recipes, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in FOLDER.iterdir() if entry.name.endswith(".yaml"))


def read_recipe(name: str) -> tuple[str, dict[str, Any]]:
    """Return the recipe's comment and its values: all of params.yaml but `USERS_KEYS`.

    A recipe without a section `data` keeps the user's, so its values have none.

    Raises:
        InputError: no recipe has the name.
    """
    if name not in recipe_names():
        raise InputError(f"no recipe is called {name[:80]!r}; there are {', '.join(recipe_names())}")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    differences = YAML(typ="safe").load(text)
    values: dict[str, Any] = {}
    for key, value in defaults().items():
        if isinstance(value, dict):
            inner = differences.get(key, {})
            values[key] = {k: inner.get(k, v) for k, v in value.items() if f"{key}.{k}" not in USERS_KEYS}
        else:
            values[key] = differences.get(key, value)
    if "data" not in differences:
        del values["data"]
    return header, values


def use_recipe(name: str, path: Path) -> list[str]:
    """Write the recipe into a params.yaml, keeping its comments, its order and the user's `USERS_KEYS`.

    Keys that a params.yaml of an earlier version lacks are added with their comments, `USERS_KEYS` with defaults; keys
    that this version does not know are removed.

    Returns:
        What changed, as `key: old -> new` or `key: removed`.

    Raises:
        InputError: no such recipe or file, a section that holds no keys, or a full or read-only disk.
    """
    header, values = read_recipe(name)
    read_yaml(path)
    yaml = YAML()
    content = yaml.load(path)
    for section in ("data", *(key for key, value in values.items() if isinstance(value, dict))):
        if not isinstance(content.setdefault(section, CommentedMap()), dict):
            raise InputError(f"{path}: {section} must hold keys and values, like those the project came with")
    for key in USERS_KEYS:
        section, _, inner = key.partition(".")
        if inner not in content[section]:
            values.setdefault(section, {})[inner] = default(settings()[key])
    changes = _put(content, values, "") + _remove_unknown(content, "")
    out = io.StringIO()
    yaml.dump(content, out)
    text = header + END_OF_HEADER + _without_header(out.getvalue())
    target = path.resolve()  # a link stays a link
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
        assert read_yaml(temporary) == YAML(typ="safe").load(out.getvalue())
    return changes


def _without_header(text: str) -> str:
    if text.startswith("# The recipe `") and END_OF_HEADER in text:
        return text[text.index(END_OF_HEADER) + len(END_OF_HEADER) :]
    return text


def _put(content: CommentedMap, values: dict[str, Any], where: str) -> list[str]:
    changes = []
    for key, value in values.items():
        old = content.get(key)
        if isinstance(value, dict) and not where:  # a section; model.overrides is a value
            changes += _put(content[key], value, f"{where}{key}.")
        elif old != value or key not in content:
            changes.append(f"{where}{key}: {old} -> {value}")
            if isinstance(old, CommentedMap) and isinstance(value, dict):
                _replace_in_place(old, value)
                continue
            if isinstance(old, list | dict):
                content.ca.items.pop(key, None)  # comments of a block do not fit another value
            if key not in content and not isinstance(value, list):
                content.yaml_add_eol_comment(comment(settings()[f"{where}{key}"]), key)
            content[key] = value
    return changes


def _replace_in_place(old: CommentedMap, value: dict[str, Any]) -> None:
    """Give a value such as {levels: 4} other keys, on one line, beside its comment; comments inside are dropped."""
    old.clear()
    old.ca.items.clear()
    old.fa.set_flow_style()
    for token in filter(None, old.ca.comment or []):
        token.column = COMMENT_COLUMN  # where it stands beside a short value; a long one pushes it to the right
    for key, inner in value.items():
        old[key] = CommentedSeq(inner) if isinstance(inner, list) else inner


def _remove_unknown(content: dict[str, Any], where: str) -> list[str]:
    changes = []
    for key, value in list(content.items()):
        name = f"{where}{key}"
        if not where and isinstance(value, dict) and key in defaults():
            changes += _remove_unknown(value, f"{name}.")
        elif name not in settings():
            changes.append(f"{name}: removed")
            del content[key]
    return changes
