"""The parts of the report page on errors: kinds, thresholds, confusions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from m2det.evaluate.error_kinds import KINDS, Ints, Matches, error_costs
from m2det.evaluate.thresholds import (
    STEPS,
    calibration,
    confusion_matrix,
    confusions,
    count_kinds,
    threshold_curves,
)
from m2det.evaluate.undefined import NOT_DEFINED, UNDEFINED
from m2det.viz.detections import SHOWN_SCORE
from m2det.viz.errors import draw_calibration, draw_confusions, draw_error_costs, draw_thresholds
from m2det.viz.page import Html, bar, code, cut, explained, figure, grid, paragraph, table

MAX_MATRIX = 100  # classes of the confusion matrix, the most frequent: more are no picture
MAX_PAIRS = 15  # most frequent confusions


def figure_of(path: Path, large: bool = False) -> Html:
    """Return a PNG file as a figure."""
    return figure(path.read_bytes(), path.stem.replace("_", " "), large)


def show_ap(value: float) -> str:
    """Return an AP with three decimals; the scorer's -1 as words."""
    return NOT_DEFINED if value == UNDEFINED else f"{value:.3f}"


def describe_errors(matches: Matches, best: float, pictures: Path) -> list[Html]:
    """Return what each kind of error costs and how many there are, and draw it."""
    costs = error_costs(matches)
    draw_error_costs(pictures / "error_kinds.png", costs.ap50, costs.by_kind)
    scores = sorted({best, SHOWN_SCORE})
    counts = [count_kinds(matches, score) for score in scores]
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
    if costs.ap50 == UNDEFINED:
        lead = "Without any object AP50 is not defined, so that no error costs any: each detection is on background."
        header, rows = header[:1] + header[2:], [row[:1] + row[2:] for row in rows]
        return [paragraph(lead), table(header, rows)]
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


def describe_thresholds(matches: Matches, best: float, pictures: Path) -> list[Html]:
    """Return what a score threshold does and whether scores are probabilities, and draw it."""
    curves, calibrated = threshold_curves(matches), calibration(matches)
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
    return [paragraph(*sentences), grid(figure_of(pictures / f"{name}.png") for name in ("thresholds", "calibration"))]


def describe_confusions(matches: Matches, best: float, pictures: Path) -> list[Html]:
    """Return which classes are taken for which, and draw the most frequent ones."""
    pairs, classes = confusions(matches, best), matches.classes
    wrong = pairs[(pairs[:, :2] >= 0).all(1) & (pairs[:, 0] != pairs[:, 1])]
    wrong = wrong[np.argsort(-wrong[:, 2], kind="stable")][:MAX_PAIRS]
    names = [cut(name) for name in classes]
    rows = [(names[row], names[column], count) for row, column, count in wrong.tolist()]
    parts = [
        paragraph(f"With the detections from score {best:.2f} on. Background beside a class: missed, or nothing there.")
    ]
    objects = np.bincount(matches.object_label, minlength=len(classes))
    drawn = np.sort(np.argsort(-objects, kind="stable")[:MAX_MATRIX])
    if len(drawn) < len(classes):
        parts.append(paragraph(f"The matrix is of the {len(drawn)} of {len(classes):,} classes with the most objects."))
    matrix = confusion_matrix(_of_classes(pairs, drawn, len(classes)), len(drawn))
    draw_confusions(pictures / "confusion_matrix.png", matrix, [classes[label] for label in drawn])
    return [
        *parts,
        figure_of(pictures / "confusion_matrix.png", large=True),
        table(("annotated", "detected", "times"), rows) if rows else paragraph("No class is taken for another."),
    ]


def _of_classes(pairs: Ints, chosen: Ints, classes: int) -> Ints:
    """Return the rows of `confusions` between chosen classes and background, with positions in `chosen` as labels."""
    position = np.full(classes + 1, -2)
    position[chosen], position[-1] = np.arange(len(chosen)), -1  # background is -1
    both = position[pairs[:, :2]]
    return np.column_stack([both, pairs[:, 2]])[(both > -2).all(1)]
