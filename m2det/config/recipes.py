"""Complete, named parameter sets: the files NAME.yaml in this folder, each beginning with what it promises."""

from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from m2det.errors import InputError
from m2det.files.whole import replacing
from m2det.files.yaml_file import read_yaml

FOLDER = files("m2det") / "recipes"
END_OF_HEADER = "#\n"  # the comment line in params.yaml below what the recipe says of itself
OWN = {"root": "", "outside": False, "mirror": "http://images.cocodataset.org"}  # of data: where it lies, in no recipe


def recipe_names() -> list[str]:
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in (files("m2det") / "recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def read_recipe(name: str) -> tuple[str, dict[str, Any]]:
    """The recipe's comment, and its values: all of params.yaml but where the data lies.

    Raises InputError for a name that does not exist.
    """
    if name not in recipe_names():
        raise InputError(f"no recipe is called {name[:80]!r}; there are {', '.join(recipe_names())}")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    return header, YAML(typ="safe").load(text)


def use_recipe(name: str, path: Path) -> list[str]:
    """Write the recipe into a params.yaml, keeping its comments, its order, and the user's data.root, outside, mirror.

    Of those three, the ones that a params.yaml of an earlier version lacks get their defaults.

    Returns what changed, as `key: old -> new`. Raises InputError where there is no such recipe or file, a section that
    holds no keys, or a disk that takes no file.
    """
    header, values = read_recipe(name)
    read_yaml(path)
    yaml = YAML()
    content = yaml.load(path)
    for section in ("data", *(key for key, value in values.items() if isinstance(value, dict))):
        if not isinstance(content.setdefault(section, CommentedMap()), dict):
            raise InputError(f"{path}: {section} must hold keys and values, like those the project came with")
    absent = {key: value for key, value in OWN.items() if key not in content["data"]}
    changes = _put(content, values, "") + _put(content["data"], absent, "data.")
    out = io.StringIO()
    yaml.dump(content, out)
    text = header + END_OF_HEADER + _without_header(out.getvalue())
    target = path.resolve()  # of a link, the file it leads to
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
        assert read_yaml(temporary) == YAML(typ="safe").load(out.getvalue())
    return changes


def _without_header(text: str) -> str:
    """What stands below the comment of another recipe; all of it where it begins with none."""
    if text.startswith("# The recipe `") and END_OF_HEADER in text:
        return text[text.index(END_OF_HEADER) + len(END_OF_HEADER) :]
    return text


def _put(content: CommentedMap, values: dict[str, Any], where: str) -> list[str]:
    changes = []
    for key, value in values.items():
        old = content.get(key)
        if isinstance(value, dict) and value:
            changes += _put(content.setdefault(key, CommentedMap()), value, f"{where}{key}.")
        elif old != value:
            changes.append(f"{where}{key}: {old} -> {value}")
            content.ca.items.pop(key, None) if isinstance(old, list | dict) else None  # a block's comments break a line
            content[key] = _in_line(value)
    return changes


def _in_line(value: Any) -> Any:
    """Lists and empty mappings as [1, 2] and {}, as params.yaml has them."""
    if isinstance(value, list | dict):
        made = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
        made.fa.set_flow_style()
        return made
    return value
