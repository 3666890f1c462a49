"""The card of a model file: its configuration, classes, training, settings and the hashes of its inputs.

A card has nothing that differs between two equal runs; models/m2det.json, beside the file, has the rest.
"""

from __future__ import annotations

import reprlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from m2det.errors import InputError
from m2det.model.config import MAX_CLASSES

Text = Annotated[str, Field(min_length=1, max_length=200)]
ClassName = Annotated[str, Field(min_length=1, max_length=1000)]  # as m2det.data.sources.coco_json lets in
Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Number = Annotated[int, Field(ge=0, lt=2**63)]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]  # .dir: of a folder
Key = Annotated[str, Field(min_length=1, max_length=1000)]  # a path, or a setting with its sections
AveragePrecision = Annotated[float, Field(ge=-1, le=1)]  # -1: no ground truth


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Trained(_Strict):
    """The epoch whose weights were kept, its AP, and the scorer that computed the AP (older files: unknown)."""

    epoch: Number
    step: Number
    AP: AveragePrecision
    AP50: AveragePrecision
    scorer: Text = ""


class Card(_Strict):
    """The content of a card.

    Attributes:
        model: Name of the configuration, for get_config.
        overrides: Fields of the configuration that differ, for get_config.
        classes: Names of the foreground classes, label 1 first.
        category_ids: COCO category id of each class.
        trained: The epoch whose weights were kept; None for converted weights.
        hashes: sha256 of each input of the training.
        params: All settings that shape the training, by dotted key; none in older files.
        deps: md5 of each file and folder that the training depends on, as in dvc.lock; none in older files.
    """

    model: Text
    overrides: Annotated[dict[Text, Any], Field(max_length=50)]
    classes: Annotated[list[ClassName], Field(min_length=1, max_length=MAX_CLASSES)]
    category_ids: list[Id]
    trained: Trained | None = None
    hashes: Annotated[dict[Text, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]], Field(max_length=50)] = {}
    params: Annotated[dict[Key, Any], Field(max_length=1000)] = {}
    deps: Annotated[dict[Key, Md5], Field(max_length=1000)] = {}

    @model_validator(mode="after")
    def _classes_have_ids(self) -> Card:
        for name, values in (("classes", self.classes), ("category_ids", self.category_ids)):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} has a value twice")
        if len(self.classes) != len(self.category_ids):
            raise ValueError(f"{len(self.classes)} classes have {len(self.category_ids)} category_ids")
        return self


def check_card(content: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the card, unchanged. Raises InputError naming its place, `where`, and its first fault."""
    try:
        return Card.model_validate(content).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = reprlib.repr(".".join(map(str, first["loc"])))
        fault = f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}" if first["loc"] else str(first["ctx"]["error"])
        raise InputError(f"{where} has a card that m2det does not write ({fault})") from error
