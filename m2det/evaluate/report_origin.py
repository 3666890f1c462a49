"""The parts of the report page that need no ground truth: the speed, and where the model came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m2det.data.packed.reader import PackedSplit
from m2det.evaluate.speed import describe_speed
from m2det.viz.page import Html, details, paragraph, table


def describe_speed_here(speed: Mapping[str, Any]) -> list[Html]:
    """Return the speed of the page's own evaluation, as `write_speed` wrote it."""
    return [
        paragraph(*describe_speed(speed)),
        paragraph(
            "That is the evaluation of this page. The stages benchmark and performance measure each part alone, and "
            "training: perf.json and performance.json beside this page."
        ),
    ]


def describe_origin(card: Mapping[str, Any], record: Mapping[str, Any], split: PackedSplit) -> list[Html]:
    """Return what a model was trained from, by its card, and what was evaluated, by the evaluation's record."""
    trained = card.get("trained")
    counts = (
        f"{name} {each['images']:,} images, {each['boxes']:,} boxes" for name, each in split.manifest["splits"].items()
    )
    rows: list[tuple[str, object]] = [
        ("model", card["model"]),
        *((f"model.{name}", value) for name, value in sorted(card["overrides"].items())),
        ("trained", f"{trained['epoch']} epochs, {trained['step']} steps" if trained else "elsewhere"),
        ("packed cache, evaluated", "; ".join(counts)),
        *((f"sha256 of {name}", value) for name, value in sorted(card["hashes"].items())),
        *((f"sha256 of {name}, evaluated", value) for name, value in sorted(record["sha256"].items())),
    ]
    parts = [table((), rows)]
    for name, key in (("Settings of the training", "params"), ("md5 of the files it was trained from", "deps")):
        if card.get(key):
            parts.append(details(name, table((), sorted(card[key].items()))))
    return parts
