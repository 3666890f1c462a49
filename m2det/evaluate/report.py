"""The report page results/report.html: how good a model is, why it fails, what the data hold, where it came from.

Equal evaluations give equal bytes: no date, host or speed is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m2det.data.packed.reader import PackedSplit
from m2det.evaluate.error_kinds import KINDS, Matches
from m2det.evaluate.metrics import NAMES
from m2det.evaluate.report_errors import (
    describe_classes,
    describe_confusions,
    describe_errors,
    describe_thresholds,
    figure_of,
    show_ap,
)
from m2det.evaluate.thresholds import STEPS, threshold_curves
from m2det.evaluate.undefined import explain_undefined
from m2det.text import images_of
from m2det.viz.detections import SHOWN_SCORE, Review, draw_pair, worst_and_best
from m2det.viz.page import (
    Html,
    cut,
    details,
    grid,
    page,
    paragraph,
    photographs,
    table,
    tiles,
)

MEANINGS = dict(
    zip(
        NAMES,
        (
            "mean over IoU 0.50 to 0.95",
            "at IoU 0.50",
            "at IoU 0.75",
            "of small objects, up to 32 x 32 px",
            "of medium objects",
            "of large objects, from 96 x 96 px on",
            "recall with 1 detection an image",
            "recall with 10",
            "recall with 100",
            "recall of small objects",
            "recall of medium objects",
            "recall of large objects",
        ),
        strict=True,
    )
)
EACH = 6  # worst and best images


@dataclass(frozen=True)
class Evaluated:
    """What a report is about.

    Attributes:
        card: the model's.
        record: results/evaluation.json.
        metrics: the 12 of COCO with all their decimals.
        class_ap: of each of the matches' classes, -1 without objects.
        voc: results/voc.json, empty for data of other formats.
        matches: of the detections with the objects.
        reviews: of each image.
        split: the images.
    """

    card: Mapping[str, Any]
    record: Mapping[str, Any]
    metrics: Mapping[str, float]
    class_ap: Sequence[float]
    voc: Mapping[str, Any]
    matches: Matches
    reviews: Sequence[Review]
    split: PackedSplit


def make_report(evaluated: Evaluated, pictures: Path) -> str:
    """Return the page, and draw its new figures.

    Args:
        evaluated: what it shows.
        pictures: the folder of figures: the new ones, and those that are drawn before.
    """
    e = evaluated
    curves = threshold_curves(e.matches)
    best = float(STEPS[curves.best]) if curves.f1.any() else SHOWN_SCORE
    sections = [
        ("", _summary(e, best)),
        ("Why it fails", describe_errors(e.matches, best, pictures)),
        ("Which score threshold", describe_thresholds(e.matches, best, pictures)),
        ("Which classes it confuses", describe_confusions(e.matches, best, pictures)),
        ("Classes", describe_classes(e.matches, e.class_ap, best)),
        ("Curves", [grid(figure_of(pictures / f"{name}.png") for name in ("learning_curve", "precision_recall"))]),
        ("Worst and best images", _images(e)),
        ("Images of each kind of error", _images_of_kinds(e)),
        ("Labels", [figure_of(pictures / "labels.png", large=True)]),
        ("Where the model came from", _origin(e)),
    ]
    return page(f"{e.card['model']} on {len(e.split)} {images_of(e.split.name)}", sections)


def _summary(e: Evaluated, best: float) -> list[Html]:
    curves, objects = threshold_curves(e.matches), len(e.matches.object_label)
    at = round(best * 100)
    large = [(show_ap(e.metrics[name]), f"{name}, {MEANINGS[name]}") for name in NAMES[:3]]
    large += [
        (f"{curves.f1[at]:.3f}", f"F1, with detections from score {best:.2f} on"),
        (f"{curves.precision[at]:.3f}", "precision there: of the detections, those that are right"),
        (f"{curves.recall[at]:.3f}", "recall there: of the objects, those that are found"),
    ]
    rows = [(name, show_ap(e.metrics[name]), MEANINGS[name]) for name in NAMES]
    if e.voc:
        rows += [(name, show_ap(e.voc[name]), "Pascal VOC's own") for name in ("mAP_11_points", "mAP_all_points")]
    sizes = f"{objects:,} objects of {len(e.matches.classes)} classes on {len(e.split):,} images"
    return [
        paragraph(f"{sizes}; {len(e.matches.label):,} detections, scored by {e.record['scorer']}."),
        tiles(large),
        *(paragraph(f"{sentence}.") for sentence in explain_undefined(e.metrics)),
        details("COCO's 12 numbers", table(("metric", "value", "meaning"), rows)),
    ]


def _images(e: Evaluated) -> list[Html]:
    chosen = worst_and_best(e.reviews, EACH)
    return [_explanation(), grid(_pair(e, kind, item) for kind, item in chosen)]


def _explanation() -> Html:
    return paragraph(
        f"First the objects: green found, blue missed, grey crowds. Then the detections from score {SHOWN_SCORE} on: "
        "green right, red wrong."
    )


def _images_of_kinds(e: Evaluated) -> list[Html]:
    """Return for each kind of wrong detection the image with the most, at SHOWN_SCORE."""
    review_of = dict(zip(e.split.image_ids.tolist(), e.reviews, strict=True))
    parts = []
    for kind, name in enumerate(list(KINDS)[:-1], 1):
        images = e.matches.image_id[(e.matches.kind == kind) & (e.matches.score >= SHOWN_SCORE)]
        if len(images):
            ids, counts = np.unique(images, return_counts=True)
            most = int(counts.argmax())
            parts.append(_pair(e, f"{name} x {counts[most]}", review_of[int(ids[most])]))
    return [grid(parts) if parts else paragraph(f"No detection from score {SHOWN_SCORE} on is wrong.")]


def _pair(e: Evaluated, kind: str, item: Review) -> Html:
    name = cut(str(e.split.file_names[item.index]))
    return photographs(
        draw_pair(e.split, item), f"{kind}: image {e.split.image_ids[item.index]}, {name}: {item.summary}"
    )


def _origin(e: Evaluated) -> list[Html]:
    card = e.card
    trained = card.get("trained")
    rows: list[tuple[str, object]] = [
        ("model", card["model"]),
        *((f"model.{name}", value) for name, value in sorted(card["overrides"].items())),
        ("trained", f"{trained['epoch']} epochs, {trained['step']} steps" if trained else "elsewhere"),
        *((f"sha256 of {name}", value) for name, value in sorted(card["hashes"].items())),
        *((f"sha256 of {name}, evaluated", value) for name, value in sorted(e.record["sha256"].items())),
    ]
    parts = [table(("", ""), rows)]
    for name, key in (("Settings of the training", "params"), ("md5 of the files it was trained from", "deps")):
        if card.get(key):
            parts.append(details(name, table(("", ""), sorted(card[key].items()))))
    return [
        *parts,
        paragraph(
            "Speeds are measured by stages of their own and lie beside this page, in perf.json and performance.json."
        ),
    ]
