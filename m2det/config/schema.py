"""The typed form of params.yaml: its sections together, and its keys with their defaults.

Every key is required in a file and unknown ones are refused: the defaults are what recipes differ from.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from m2det.config.sections.data import DataParams, PackParams, WeightsParams
from m2det.config.sections.evaluate import BenchmarkParams, EvaluateParams
from m2det.config.sections.run import RunParams
from m2det.config.sections.train import ModelParams, PrecisionParams, TrainParams
from m2det.config.values import Section, setting


class Params(Section):
    """All of params.yaml."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = setting(160, "passes over the training images")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = setting(
        49, "random seed of initial weights, order of images and augmentation (ModelZoo baseline: 49)"
    )
    run: RunParams
    data: DataParams
    pack: PackParams
    weights: WeightsParams
    model: ModelParams
    train: TrainParams
    precision: PrecisionParams
    evaluate: EvaluateParams
    benchmark: BenchmarkParams

    @property
    def looks_for_test(self) -> bool:
        """Whether the test images are those that the user's own set calls so, since none are named."""
        return self.evaluate.split == "test" and not self.data.test

    @model_validator(mode="after")
    def _has_test_images(self) -> Params:
        if self.looks_for_test and (self.data.source not in ("auto", "yolo") or self.data.train):
            raise ValueError(
                "evaluate.split is 'test', but data.test is empty: list {annotations: FILE.json, images: FOLDER} "
                "there, in COCO's format"
            )
        return self

    def section(self, *names: str) -> dict[str, Any]:
        """Return the named parts as plain values, for fingerprints and cards."""
        everything = self.model_dump(mode="json")
        return {name: everything[name] for name in names}


def dotted(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of sections in one mapping, by keys such as train.lr."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def settings() -> dict[str, FieldInfo]:
    """Return the fields of params.yaml that hold a value, by keys such as epochs and train.lr, in the file's order."""
    found: dict[str, FieldInfo] = {}
    for name, field in Params.model_fields.items():
        kind = field.annotation
        section = kind.model_fields if isinstance(kind, type) and issubclass(kind, Section) else None
        found |= {f"{name}.{key}": inner for key, inner in section.items()} if section else {name: field}
    return found


def default(field: FieldInfo) -> Any:
    """Return a copy of the value that recipes leave out."""
    assert isinstance(field.json_schema_extra, dict)
    return copy.deepcopy(field.json_schema_extra["default"])


def defaults() -> dict[str, Any]:
    """Return the value of every key, in sections."""
    values: dict[str, Any] = {}
    for key, field in settings().items():
        section, _, name = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = default(field)
    return values


def parameter_keys() -> list[str]:
    """Return the keys of params.yaml that hold a value, such as epochs and train.lr."""
    return list(settings())
