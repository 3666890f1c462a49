"""The card of a trained model: what the training made of which classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m2det.config import Params
from m2det.data.packed.reader import read_manifest
from m2det.evaluate.metrics import choose_scorer
from m2det.train.evaluator import POSTPROCESSING
from m2det.train.state import TrainResult


def training_card(params: Params, cache: Path, outcome: TrainResult, hashes: dict[str, str]) -> dict[str, Any]:
    """Return the card of a finished training, as `m2det.model.card.Card`, without `params` and `deps`.

    Args:
        params: of the training.
        cache: the packed cache.
        outcome: what `train` returned.
        hashes: sha256 of each input.
    """
    manifest, kept = read_manifest(cache), outcome.kept_row
    return {
        "model": params.model.name,
        "overrides": params.model.all_overrides,
        "classes": manifest["classes"],
        "category_ids": manifest["category_ids"],
        "trained": {name: kept[name] for name in ("epoch", "step", "AP", "AP50")}
        | {"scorer": choose_scorer(POSTPROCESSING.scorer)},
        "hashes": hashes,
    }
