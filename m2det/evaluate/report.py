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
from m2det.evaluate.error_kinds import KINDS, Matches, error_costs
from m2det.evaluate.metrics import NAMES
from m2det.evaluate.thresholds import (
    STEPS,
    calibration,
    confusion_matrix,
    confusions,
    count_kinds,
    threshold_curves,
)
from m2det.evaluate.undefined import UNDEFINED, explain_undefined
from m2det.viz.detections import SHOWN_SCORE, Review, draw_pair, worst_and_best
from m2det.viz.errors import draw_calibration, draw_confusions, draw_error_costs, draw_thresholds
from m2det.viz.page import (
    Html,
    bar,
    code,
    cut,
    details,
    explained,
    figure,
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
MAX_MATRIX = 100  # classes; more are no picture
MAX_PAIRS = 15  # most frequent confusions
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
        ("Why it fails", _errors(e, best, pictures)),
        ("Which score threshold", _thresholds(e, best, pictures)),
        ("Which classes it confuses", _confusions(e, best, pictures)),
        ("Classes", _classes(e, best)),
        ("Curves", [grid(_figure(pictures / f"{name}.png") for name in ("learning_curve", "precision_recall"))]),
        ("Worst and best images", _images(e)),
        ("Images of each kind of error", _images_of_kinds(e)),
        ("Labels", [_figure(pictures / "labels.png", large=True)]),
        ("Where the model came from", _origin(e)),
    ]
    return page(f"{e.card['model']} on {len(e.split)} validation images", sections)


def _figure(path: Path, large: bool = False) -> Html:
    return figure(path.read_bytes(), path.stem.replace("_", " "), large)


def _number(value: float) -> str:
    return "not defined" if value == UNDEFINED else f"{value:.3f}"


def _summary(e: Evaluated, best: float) -> list[Html]:
    curves, objects = threshold_curves(e.matches), len(e.matches.object_label)
    at = round(best * 100)
    large = [(_number(e.metrics[name]), f"{name}, {MEANINGS[name]}") for name in NAMES[:3]]
    large += [
        (f"{curves.f1[at]:.3f}", f"F1, with detections from score {best:.2f} on"),
        (f"{curves.precision[at]:.3f}", "precision there: of the detections, those that are right"),
        (f"{curves.recall[at]:.3f}", "recall there: of the objects, those that are found"),
    ]
    rows = [(name, _number(e.metrics[name]), MEANINGS[name]) for name in NAMES]
    if e.voc:
        rows += [(name, _number(e.voc[name]), "Pascal VOC's own") for name in ("mAP_11_points", "mAP_all_points")]
    sizes = f"{objects:,} objects of {len(e.matches.classes)} classes on {len(e.split):,} images"
    return [
        paragraph(f"{sizes}; {len(e.matches.label):,} detections, scored by {e.record['scorer']}."),
        tiles(large),
        *(paragraph(f"{sentence}.") for sentence in explain_undefined(e.metrics)),
        details("COCO's 12 numbers", table(("metric", "value", "meaning"), rows)),
    ]


def _errors(e: Evaluated, best: float, pictures: Path) -> list[Html]:
    costs = error_costs(e.matches)
    draw_error_costs(pictures / "error_kinds.png", costs.ap50, costs.by_kind)
    scores = sorted({best, SHOWN_SCORE})
    counts = [count_kinds(e.matches, score) for score in scores]
    most = max(costs.by_kind.values())
    header = ("kind", "AP50 lost", *(f"from {score:.2f}" for score in scores))
    rows = [
        (
            explained(name, KINDS[name]),
            bar(cost / (most or 1), f"{cost:.3f}", "red"),
            *(count[name] for count in counts),
        )
        for name, cost in costs.by_kind.items()
    ]
    worst = max(costs.by_kind, key=lambda name: costs.by_kind[name])
    lead = (
        f"The most costly kind is {worst}: {KINDS[worst]}. Without it AP50 would be {costs.ap50 + most:.3f}, "
        f"not {costs.ap50:.3f}."
        if most
        else "No kind of error costs any AP50."
    )
    return [
        paragraph(lead),
        table(header, rows),
        paragraph(
            f"Without any wrong detection AP50 would rise by {max(costs.false_positive, 0):.3f}, without any object "
            f"that is not found by {costs.false_negative:.3f}.",
            "The last columns count errors with the detections from these scores on. Kinds and costs are TIDE's "
            "(Bolya et al., 2020): AP50 with the errors of one kind corrected, less AP50 as it is.",
            "They do not add up: one error may hide another.",
        ),
    ]


def _thresholds(e: Evaluated, best: float, pictures: Path) -> list[Html]:
    curves, calibrated = threshold_curves(e.matches), calibration(e.matches)
    named = {"precision": curves.precision, "recall": curves.recall, "F1": curves.f1}
    draw_thresholds(pictures / "thresholds.png", STEPS, named, best)
    draw_calibration(pictures / "calibration.png", calibrated.score, calibrated.right, calibrated.error)
    advice = (
        f"The best F1 is with the detections from score {best:.2f} on:",
        code(f"m2det detect --score {best:.2f}"),
        "shows these.",
    )
    none = (f"No detection is right, so that no threshold is the best; this page takes {best:.2f}.",)
    sentences = (
        *(advice if curves.f1.any() else none),
        "A lower threshold finds more objects, a higher one makes fewer mistakes.",
        "The first figure is of all classes together, at IoU 0.5; the second tells whether 8 of 10 detections with a "
        "score of 0.8 are right.",
    )
    return [paragraph(*sentences), grid(_figure(pictures / f"{name}.png") for name in ("thresholds", "calibration"))]


def _confusions(e: Evaluated, best: float, pictures: Path) -> list[Html]:
    pairs, classes = confusions(e.matches, best), e.matches.classes
    wrong = pairs[(pairs[:, :2] >= 0).all(1) & (pairs[:, 0] != pairs[:, 1])]
    wrong = wrong[np.argsort(-wrong[:, 2], kind="stable")][:MAX_PAIRS]
    names = [cut(name) for name in classes]
    rows = [(names[row], names[column], count) for row, column, count in wrong.tolist()]
    parts = [
        paragraph(f"With the detections from score {best:.2f} on. Background beside a class: missed, or nothing there.")
    ]
    if len(classes) <= MAX_MATRIX:
        draw_confusions(pictures / "confusion_matrix.png", confusion_matrix(pairs, len(classes)), classes)
        parts.append(_figure(pictures / "confusion_matrix.png", large=True))
    return [
        *parts,
        table(("annotated", "detected", "times"), rows) if rows else paragraph("No class is taken for another."),
    ]


def _classes(e: Evaluated, best: float) -> list[Html]:
    objects = np.bincount(e.matches.object_label, minlength=len(e.matches.classes)).tolist()
    rows, without, at = [], [], round(best * 100)
    for label, (name, ap) in enumerate(zip(e.matches.classes, e.class_ap, strict=True)):
        if not objects[label]:
            without.append(cut(name))
            continue
        curves = threshold_curves(e.matches, label)
        found = ((e.matches.label == label) & (e.matches.score >= best)).any()
        precision = f"{curves.precision[at]:.2f}" if found else "none detected"
        own = f"{STEPS[curves.best]:.2f}" if curves.f1.any() else "none"
        row = (precision, f"{curves.recall[at]:.2f}", f"{curves.f1[at]:.2f}", own)
        rows.append((ap, (cut(name), bar(ap, _number(ap)), objects[label], *row)))
    rows.sort(key=lambda row: row[0])
    header = ("class", "AP", "objects", "precision", "recall", "F1", "best threshold")
    parts = [
        paragraph(f"The lowest AP first. Precision, recall and F1 are with the detections from score {best:.2f} on."),
        table(header, [row for _, row in rows]),
    ]
    if without:
        parts.append(details(f"{len(without)} classes without objects here", paragraph(", ".join(without))))
    return parts


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
