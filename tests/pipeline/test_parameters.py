"""The form of a run: its JSON schema has every setting, refuses what it can, and lets values pass unchanged."""

import json
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate
from pydantic import ConfigDict, TypeAdapter
from pydantic import ValidationError as PydanticError

from flows.parameters import flat
from flows.pipeline import m2det
from flows.run_name import run_name
from m2det.config import parameter_keys
from m2det.config.recipes import read_recipe, recipe_names
from m2det.config.schema import settings

SCHEMA = parameter_schema(m2det).model_dump_for_openapi()
OVERRIDES = SCHEMA["properties"]["overrides"]
PROBES = [
    *(-1, 0, 1, 3, 17, 10**7, 10**12, 2**63, -0.5, 1e-9, 0.5, 0.9999999, 1.5, 1e300, True, False, "3", "", "auto", "x"),
    *("O1", "sgd", "dynamic", [], [1], [0.5], ["x"], {}, {"levels": 3}, "x" * 2000),
    *([{"annotations": "a.json", "images": "i"}], [{"annotations": "a.json"}], [{"images": 1}], [{"a": 1}]),
]


def leaf(key: str) -> dict[str, Any]:
    section, _, name = key.rpartition(".")
    return (OVERRIDES["properties"][section] if section else OVERRIDES)["properties"][name]


def refused(**parameters: object) -> str:
    """Return the sentence of Prefect's server, "" if it takes the parameters."""
    try:
        validate(parameters, SCHEMA, raise_on_error=True)
    except ValidationError as error:
        return str(error)
    return ""


def test_the_form_has_a_field_for_every_setting_and_fills_in_none():
    for key in parameter_keys():
        assert leaf(key)["description"].startswith(settings()[key].description)
        assert "default" not in leaf(key), "a field that is filled in replaces the recipe's value"
        assert leaf(key).get("type") != "boolean", "the form's switch is never empty: it would say false"
    sections = [part["properties"] for part in OVERRIDES["properties"].values() if "properties" in part]
    assert sum(map(len, sections)) + 2 == len(parameter_keys())
    assert OVERRIDES["default"] == {} and SCHEMA["properties"]["stages"]["default"] == []


@pytest.mark.parametrize("key", parameter_keys())
def test_the_form_refuses_wrong_types_and_ranges_and_nothing_that_is_right(key):
    field = settings()[key]
    kind = TypeAdapter(
        Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation,
        config=ConfigDict(strict=True, allow_inf_nan=False),
    )
    form = Draft202012Validator(leaf(key))
    for value in PROBES:
        try:
            kind.validate_python(value)
        except PydanticError as error:
            by_rule = all(e["type"] == "value_error" for e in error.errors())  # of ours, which no schema says
            assert by_rule or not form.is_valid(value), value
        else:
            assert form.is_valid(value), value


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (
            {"overrides": {"epoch": 3}},
            "field 'overrides'. Failure reason: Additional properties are not allowed ('epo",
        ),
        ({"overrides": {"train.lr": 0.1}}, "Additional properties are not allowed ('train.lr' was unexpected)"),
        ({"overrides": {"train": {"lrs": 1}}}, "field 'overrides.train'. Failure reason: Additional properties"),
        ({"overrides": {"epochs": 0}}, "field 'overrides.epochs'. Failure reason: 0 is less than the minimum of 1"),
        ({"recipe": "coco"}, f"field 'recipe'. Failure reason: 'coco' is not one of {recipe_names()}"),
        ({"stages": ["trian"]}, "field 'stages[0]'. Failure reason: 'trian' is not one of ['annotations', 'data', "),
        ({"stages": ["train", "train"]}, "field 'stages'. Failure reason: ['train', 'train'] has non-unique elements"),
    ],
)
def test_a_refusal_names_the_field_and_what_is_right(parameters, sentence):
    assert sentence in refused(**parameters)


def test_values_reach_the_run_as_they_were_given():
    overrides = {
        "epochs": 160,
        "seed": 2**63 - 1,
        "train": {"lr": 1, "momentum": 0.30000000000000004, "max_grad_norm": 0.0, "hflip": False, "gammas": [1, 0.1]},
        "model": {"overrides": {"levels": 4, "sizes": [0.1, 2], "smooth": True, "name": "{{ x }}"}},
        "data": {"train": [{"annotations": "a.json", "images": "i"}]},
        "run": {"processes": "auto"},
    }
    given = {"recipe": None, "stages": ["train"], "overrides": overrides, "apply": False}
    assert not refused(**given)
    assert json.dumps(m2det.validate_parameters(given)) == json.dumps(given), "1 is not 1.0"
    assert json.dumps(flat(overrides)["model.overrides"]) == json.dumps(overrides["model"]["overrides"])


@pytest.mark.parametrize(
    ("recipe", "stages", "max_steps", "name"),
    [
        ("coco512-8p", [], 0, "coco512-8p 160 epochs, 3f2a1c"),
        ("coco512-8p", [], 1, "coco512-8p 1 step, 3f2a1c"),
        (None, ["train", "evaluate"], 40, "params.yaml 40 steps, 3f2a1c"),
        ("coco512-8p", ["data", "performance"], 0, "coco512-8p performance, 3f2a1c"),
    ],
)
def test_a_run_is_named_by_what_it_does(recipe, stages, max_steps, name):
    values = read_recipe("coco512-8p")[1]
    values["train"]["max_steps"] = max_steps
    assert run_name(recipe, values, stages, "3f2a1cd0123456789") == name
