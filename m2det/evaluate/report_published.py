"""The part of the report page with published scores beside the model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m2det.data.packed.reader import PackedSplit
from m2det.evaluate.metrics import NAMES
from m2det.evaluate.published import MINIVAL, published_beside
from m2det.evaluate.report_errors import show_ap
from m2det.viz.page import Html, explained, paragraph, table

SHOWN = NAMES[:6]  # AP, not recall


def describe_published(
    card: Mapping[str, Any], metrics: Mapping[str, float], speed: Mapping[str, Any], split: PackedSplit
) -> list[tuple[str, list[Html]]]:
    """Return the section, as title and parts; none where nothing published can be compared.

    Args:
        card: the model's.
        metrics: its metrics on the split.
        speed: of the evaluation, as `write_speed` wrote it.
        split: the images.
    """
    others = published_beside(card, split.classes, split.category_ids, len(split))
    if not others:
        return []
    own = f"{speed['img_per_s']:g}, {speed['device_name']}"
    rows: list[tuple[object, ...]] = [
        ("this model", *(show_ap(metrics[name]) for name in SHOWN), f"{len(split):,} images", own)
    ]
    rows += [
        (
            explained(each.model, each.source),
            *(f"{each.ap[name]:.3f}" if name in each.ap else "-" for name in SHOWN),
            each.data,
            each.speed,
        )
        for each in others
    ]
    same = ["The images are as many as those of minival2014 and of val2017, which are the same."] * (
        len(split) == MINIVAL
    )
    sentences = (
        *same,
        "All but the first row are published by others, not measured here.",
        "AP depends on the images: compare rows of the same data. What else differs is below a name.",
    )
    parts = [table(("model", *SHOWN, "data", "images per second"), rows), paragraph(*sentences)]
    return [("Beside published scores", parts)]
