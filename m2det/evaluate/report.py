"""The report page results/report.html: how good a model is, why it fails, what the data hold, where it came from.

Equal evaluations give equal bytes but for the section on speed: no date, host or path is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2det.data.packed.reader import PackedSplit
from m2det.evaluate.error_kinds import Matches
from m2det.evaluate.metrics import NAMES
from m2det.evaluate.report_classes import describe_classes, describe_sizes
from m2det.evaluate.report_errors import describe_confusions, describe_errors, describe_thresholds, figure_of, show_ap
from m2det.evaluate.report_images import describe_images, describe_images_of_kinds
from m2det.evaluate.report_origin import describe_origin, describe_speed_here
from m2det.evaluate.report_published import describe_published
from m2det.evaluate.reviews import review_images
from m2det.evaluate.thresholds import STEPS, threshold_curves
from m2det.evaluate.undefined import NOT_DEFINED, explain_undefined
from m2det.text import images_of
from m2det.viz.detections import SHOWN_SCORE
from m2det.viz.page import Html, details, grid, page, paragraph, table, tiles

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


@dataclass(frozen=True)
class Evaluated:
    """What a report is about.

    Attributes:
        card: the model's.
        record: results/evaluation.json.
        metrics: the 12 of COCO with all their decimals.
        class_ap: [K,4] AP, APs, APm, APl of each of the matches' classes, -1 without such objects.
        speed: results/detection_speed.json.
        voc: results/voc.json, empty for data of other formats.
        truth: the ground truth in COCO's format.
        matches: of the detections with its objects.
        split: the images.
    """

    card: Mapping[str, Any]
    record: Mapping[str, Any]
    metrics: Mapping[str, float]
    class_ap: NDArray[np.float64]
    speed: Mapping[str, Any]
    voc: Mapping[str, Any]
    truth: Mapping[str, Any]
    matches: Matches
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
    reviews = review_images(e.matches, e.truth, e.split.image_ids.tolist(), best)
    sections = [
        ("", _summary(e, best)),
        *describe_published(e.card, e.metrics, e.speed, e.split),
        ("Why it fails", describe_errors(e.matches, best, pictures)),
        ("Which score threshold", describe_thresholds(e.matches, best, pictures)),
        ("Which classes it confuses", describe_confusions(e.matches, best, pictures)),
        ("Sizes", describe_sizes(e.matches, e.metrics)),
        ("Classes", describe_classes(e.matches, e.class_ap, best)),
        ("Curves", [grid(figure_of(pictures / f"{name}.png") for name in ("learning_curve", "precision_recall"))]),
        ("Worst and best images", describe_images(e.split, reviews, best)),
        ("Images of each kind of error", describe_images_of_kinds(e.split, reviews, e.matches, best)),
        ("Labels", [figure_of(pictures / "labels.png", large=True)]),
        ("Speed", describe_speed_here(e.speed)),
        ("Where the model came from", describe_origin(e.card, e.record, e.split)),
    ]
    return page(f"{e.card['model']} on {len(e.split)} {images_of(e.split.name)}", sections)


def _summary(e: Evaluated, best: float) -> list[Html]:
    curves, objects = threshold_curves(e.matches), len(e.matches.object_label)
    at, found = round(best * 100), bool((e.matches.score >= best).any())
    large = [(show_ap(e.metrics[name]), f"{name}, {MEANINGS[name]}") for name in NAMES[:3]]
    large += [
        (f"{curves.f1[at]:.3f}" if objects else NOT_DEFINED, f"F1, with detections from score {best:.2f} on"),
        (
            f"{curves.precision[at]:.3f}" if found else NOT_DEFINED,
            "precision there: of the detections, those that are right",
        ),
        (f"{curves.recall[at]:.3f}" if objects else NOT_DEFINED, "recall there: of the objects, those that are found"),
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
