"""The parameters of a run, with their JSON schema: Prefect's form shows it, and its server refuses what breaks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import WithJsonSchema

from m2det.config import Params
from m2det.config.document import comment
from m2det.config.recipes import recipe_names
from m2det.config.schema import defaults, settings
from m2det.errors import InputError

STAGES = ("annotations", "data", "pack", "ops", "weights", "train", "evaluate", "benchmark", "performance")
EXAMPLE = '{"epochs": 160, "train": {"lr": 0.01}}'


def check_stages(stages: Sequence[str]) -> None:
    """Raise InputError for a stage that does not exist or is named twice."""
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise InputError(f"stages: no stage is called {unknown[0][:80]!a}; there are {', '.join(STAGES)}")
    if twice := [stage for stage in stages if stages.count(stage) > 1]:
        raise InputError(f"stages: {twice[0]} is named twice; once will do")


def flat(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides, nested as in params.yaml, by keys such as train.lr.

    Raises:
        InputError: params.yaml has no such key.
    """
    values: dict[str, Any] = {}
    known = defaults()
    for name, value in overrides.items():
        if name not in known:
            raise InputError(f"overrides: {_unknown(name)}")
        if not isinstance(known[name], dict):
            values[name] = value
        elif isinstance(value, Mapping):
            if unknown := [key for key in value if key not in known[name]]:
                raise InputError(f"overrides: {_unknown(f'{name}.{unknown[0]}')}")
            values |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            raise InputError(f"overrides: {name} is a section of params.yaml; give keys of it: {EXAMPLE}")
    return values


def _unknown(key: str) -> str:
    return f"no key of params.yaml is called {key[:80]!a}; keys are given as in that file: {EXAMPLE}"


def overrides_schema() -> dict[str, Any]:
    """Return the JSON schema of all keys of params.yaml, nested as there; each may be left out, none has a default."""
    whole = Params.model_json_schema()
    definitions = whole["$defs"]
    top: dict[str, Any] = {}
    for key, field in settings().items():
        section, _, name = key.rpartition(".")
        model = definitions[whole["properties"][section]["$ref"].rpartition("/")[2]] if section else whole
        value = _inlined(model["properties"][name], definitions)
        # a default would fill in the form, and what is filled in replaces the recipe's value
        rules = {word: rule for word, rule in value.items() if word not in ("default", "unit")}
        if rules.get("type") == "boolean":
            rules = {"enum": [True, False]}  # Prefect's form has a switch for booleans, which is never empty
        leaf = {**rules, "title": name, "description": comment(field)}
        if section:
            empty = {"title": section, "description": model["description"], **_mapping({})}
            top.setdefault(section, empty)["properties"][name] = leaf
        else:
            top[name] = leaf
    return _mapping(top)


def _mapping(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema:  # a choice of one, which Prefect's form offers as such
        schema = {"enum": [schema["const"]], **{word: rule for word, rule in schema.items() if word != "const"}}
    return {word: _inlined(rule, definitions) for word, rule in schema.items()}


# The values reach a run as they were given: types and rules are checked again by `checked_settings`, whose sentences
# name the file and the remedy.
Recipe = Annotated[
    str | None, WithJsonSchema({"anyOf": [{"type": "string", "enum": recipe_names()}, {"type": "null"}]})
]
Stages = Annotated[
    list[str],
    WithJsonSchema({"type": "array", "items": {"type": "string", "enum": list(STAGES)}, "uniqueItems": True}),
]
Overrides = Annotated[dict[str, Any], WithJsonSchema(overrides_schema())]
