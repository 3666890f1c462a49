"""What a score threshold does: precision, recall, F1, who is taken for whom, and whether scores are probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m2det.evaluate.error_kinds import CLASS, KINDS, RIGHT, Floats, Ints, Matches

STEPS = np.arange(101) / 100  # the thresholds
BINS = 10  # of scores, for the calibration


@dataclass(frozen=True)
class ThresholdCurves:
    """Precision, recall and F1 [101] of all classes together, of the detections from each of STEPS on.

    Precision is 1 without detections; recall and F1 are 0 without objects.
    """

    precision: Floats
    recall: Floats
    f1: Floats

    @property
    def best(self) -> int:
        """The position in STEPS of the best F1; of equal ones the highest threshold."""
        return len(self.f1) - 1 - int(self.f1[::-1].argmax())


def threshold_curves(matches: Matches, label: int | None = None) -> ThresholdCurves:
    """Return the curves of all classes together, or of one."""
    of_label = np.full(len(matches.label), True) if label is None else matches.label == label
    total = len(matches.object_label) if label is None else int((matches.object_label == label).sum())
    right = _at_least(matches.score[of_label & (matches.kind == RIGHT)])
    found = _at_least(matches.score[of_label])
    precision = np.divide(right, found, out=np.ones(len(STEPS)), where=found > 0)
    recall, f1 = right / max(1, total), 2 * right / np.maximum(1, found + total)
    return ThresholdCurves(precision, recall, f1)


def _at_least(scores: Floats) -> Ints:
    """Return the number of scores [101] from each of STEPS on."""
    return len(scores) - np.searchsorted(np.sort(scores), STEPS)


def count_kinds(matches: Matches, threshold: float) -> dict[str, int]:
    """Return the number of errors of each kind with the detections from a score on.

    An object is missed that none of them finds, and to which none with the wrong class or box belongs.
    """
    shown = matches.score >= threshold
    counts = np.bincount(matches.kind[shown], minlength=len(KINDS)).tolist()
    near = matches.object[shown & (matches.object >= 0)]
    return dict(zip(KINDS, [*counts[1:], len(matches.object_label) - len(np.unique(near))], strict=True))


def confusions(matches: Matches, threshold: float) -> Ints:
    """Return who is taken for whom: rows [K,3] of the object's class, the detection's, and how often; background is -1.

    Each object that counts is in one row, and so is each detection from the threshold on: as its own class if right; as
    another where the box is an object's that no right or better detection has; otherwise as background.
    """
    shown = matches.score >= threshold
    free = np.ones(len(matches.object_label), bool)
    right = shown & (matches.kind == RIGHT)
    free[matches.object[right]] = False
    annotated = np.where(right, matches.label, -1)
    other = np.flatnonzero(shown & (matches.kind == CLASS))
    other = other[free[matches.object[other]]]
    objects, first = np.unique(matches.object[other], return_index=True)  # the first of an object is the best
    annotated[other[first]] = matches.object_label[objects]
    free[objects] = False
    detections = np.column_stack([annotated[shown], matches.label[shown]])
    missed = np.column_stack([matches.object_label[free], np.full(free.sum(), -1)])
    pairs, count = np.unique(np.concatenate([detections, missed]), axis=0, return_counts=True)
    return np.column_stack([pairs, count])


def confusion_matrix(pairs: Ints, classes: int) -> Ints:
    """Return `confusions` as [C+1,C+1], the object's class by row, the detection's by column, background last."""
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    matrix[pairs[:, 0], pairs[:, 1]] = pairs[:, 2]
    return matrix


@dataclass(frozen=True)
class Calibration:
    """Of the detections in BINS equal ranges of scores: their number, mean score, and share that is right, [10] each.

    Both means are 0 in a range without detections.
    """

    count: Ints
    score: Floats
    right: Floats

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of score and share over all detections."""
        return float((self.count * np.abs(self.score - self.right)).sum() / max(1, self.count.sum()))


def calibration(matches: Matches) -> Calibration:
    """Return how far scores are probabilities of being right."""
    place = np.clip((matches.score * BINS).astype(np.int64), 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    sums = (np.bincount(place, weights, BINS) for weights in (matches.score, (matches.kind == RIGHT).astype(float)))
    score, right = (each / np.maximum(1, count) for each in sums)
    return Calibration(count, score, right)
