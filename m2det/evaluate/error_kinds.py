"""Why detections are wrong: the error kinds of TIDE (Bolya et al., ECCV 2020), and the AP50 that each costs.

The detections and their matches are those of COCO's AP50: the best 100 of a class on an image, each with the free
object of its class that it overlaps most. The kinds, their order and their corrections are those of TIDE's own code.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MATCH, NEAR = 0.5, 0.1  # IoU of a detection with its object, and with one that it is near to
LIMIT = 100  # detections of a class on an image, as COCO counts them
RIGHT, CLASS, LOCATION, BOTH, DUPLICATE, BACKGROUND = range(6)
KINDS = {
    "classification": "the right box with the wrong class",
    "localisation": "the right class, but the box only near the object (IoU 0.1 to 0.5)",
    "both": "near an object of another class",
    "duplicate": "an object that a better detection has found already",
    "background": "no object there",
    "missed": "an object that no detection finds or would find with another class or a better box",
}
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = defaultdict[int, list[list[float]]]  # of an image
_NONE, _NO_BOXES = np.zeros(0, np.int64), np.zeros((0, 4))
_NO_DETECTIONS = (_NONE, _NONE, np.zeros(0), _NONE, _NO_BOXES, _NONE)
_NO_OBJECTS = (_NONE, _NONE, _NO_BOXES, np.zeros(0))


@dataclass(frozen=True)
class Matches:
    """The detections of a split, matched with its objects; those in crowds are left out.

    Attributes:
        classes: names by category id; labels are positions in them.
        image_id: [D] of each detection; sorted, and within an image the best first.
        label: [D]. score: [D]. kind: [D] RIGHT, CLASS, ... BACKGROUND.
        box: [D,4], xywh, px.
        object: [D], what the detection found, or would find with another class (CLASS) or box (LOCATION); else -1.
        object_image: [N], the image id of each object that counts. object_label: [N].
        object_box: [N,4], xywh, px. object_area: [N], px^2, as annotated: COCO's measure of size.
    """

    classes: list[str]
    image_id: Ints
    label: Ints
    score: Floats
    kind: Ints
    box: Floats
    object: Ints
    object_image: Ints
    object_label: Ints
    object_box: Floats
    object_area: Floats


def match_detections(truth: dict[str, Any], results: list[dict[str, Any]]) -> Matches:
    """Match detections with objects, and find what kind of error each wrong one is.

    Args:
        truth: in COCO's format; without VOC's difficult objects, as `without_difficult` returns both.
        results: entries of a COCO results file.
    """
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    objects, crowds, detections = (Rows(list) for _ in range(3))
    for annotation in truth["annotations"]:
        table = crowds if annotation.get("iscrowd") else objects
        area = annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3])
        table[annotation["image_id"]].append([*annotation["bbox"], label_of[annotation["category_id"]], area])
    for result in results:
        row = [*result["bbox"], label_of[result["category_id"]], result["score"]]
        detections[result["image_id"]].append(row)
    columns, object_columns = [_NO_DETECTIONS], [_NO_OBJECTS]
    count = 0
    for image_id in sorted(objects.keys() | detections.keys()):
        found, there = (np.array(table.get(image_id, []), np.float64).reshape(-1, 6) for table in (detections, objects))
        found = _best(found)
        kind, target = _kinds(found, there, np.array(crowds.get(image_id, []), np.float64).reshape(-1, 6))
        counted = kind >= 0
        label, score, box = found[counted, 4].astype(np.int64), found[counted, 5], found[counted, :4]
        number = np.where(target >= 0, target + count, -1)[counted]
        columns.append((np.full(len(label), image_id), label, score, kind[counted], box, number))
        object_label = there[:, 4].astype(np.int64)
        object_columns.append((np.full(len(there), image_id), object_label, there[:, :4], there[:, 5]))
        count += len(there)
    each = (np.concatenate(column) for rows in (columns, object_columns) for column in zip(*rows, strict=True))
    return Matches([category["name"] for category in categories], *each)


def _best(found: Floats) -> Floats:
    """Return the detections of an image by score, the best LIMIT of each class."""
    found = found[np.argsort(-found[:, 5], kind="stable")]
    if len(found) <= LIMIT:
        return found
    by_label = np.argsort(found[:, 4], kind="stable")
    labels = found[by_label, 4]
    rank = np.empty(len(found), np.int64)
    rank[by_label] = np.arange(len(found)) - np.searchsorted(labels, labels)
    return found[rank < LIMIT]


def _kinds(found: Floats, there: Floats, crowds: Floats) -> tuple[Ints, Ints]:
    """Return kind (-1: in a crowd) and object of each detection of an image, [K] each.

    Args:
        found: [K,6] xywh, label, score, best first.
        there: [N,6] xywh, label, area of the objects.
        crowds: [C,6], the same of crowds.
    """
    kind, target = np.full(len(found), BACKGROUND), np.full(len(found), -1)
    if len(found) and len(there):
        overlap = _overlap(found, there)
        same = found[:, 4, None] == there[None, :, 4]
        own, other = np.where(same, overlap, 0), np.where(same, 0, overlap)
        own_best, other_best = own.max(1), other.max(1)
        kind[overlap.max(1) > NEAR] = BOTH
        kind[own_best >= MATCH] = DUPLICATE  # unless matched, below
        for wrong, where, near in (
            (CLASS, other_best >= MATCH, other),
            (LOCATION, (own_best >= NEAR) & (own_best < MATCH), own),
        ):
            kind[where], target[where] = wrong, near[where].argmax(1)
        taken: set[int] = set()
        for k in np.flatnonzero(own_best >= MATCH).tolist():
            free = [n for n in np.flatnonzero(own[k] >= MATCH).tolist() if n not in taken]
            if free:
                kind[k], target[k] = RIGHT, max(free, key=lambda n: own[k, n])
                taken.add(int(target[k]))
    if len(found) and len(crowds):
        inside = _overlap(found, crowds, of_found=True) >= MATCH
        ignored = (kind != RIGHT) & (inside & (found[:, 4, None] == crowds[None, :, 4])).any(1)
        kind[ignored], target[ignored] = -1, -1
    return kind, target


def _overlap(a: Floats, b: Floats, of_found: bool = False) -> Floats:
    """Return the IoU [K,N] of boxes xywh, or the intersection over the area of `a`, as COCO has it for crowds."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:4], b[None, :, :2] + b[None, :, 2:4])
    shared = np.maximum(high - low, 0).prod(2)
    area = a[:, 2:4].prod(1)[:, None]
    union = area + (0 if of_found else b[:, 2:4].prod(1)[None] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


@dataclass(frozen=True)
class ErrorCosts:
    """AP50, and how much it would rise without the errors of each kind, without wrong detections, without misses.

    The kinds do not add up to what AP50 lacks: a detection's error may hide another.
    """

    ap50: float
    by_kind: dict[str, float]
    false_positive: float
    false_negative: float


def error_costs(matches: Matches) -> ErrorCosts:
    """Return the AP50 that each kind costs, by correcting its errors alone; -1 as AP50 without objects, all costs 0.

    A wrong class or box is corrected where its object is found by no detection and this is the best one near it;
    otherwise, as duplicates and detections on background, the detection is removed. A missed object is not counted.
    """
    m, objects = matches, np.bincount(matches.object_label, minlength=len(matches.classes))
    right = m.kind == RIGHT
    fixes, missed = _correctable(m)
    base = _mean_ap(m.label, m.score, right, objects)
    costs = {}
    for kind, name in enumerate(list(KINDS)[:-1], 1):
        fixed = fixes & (m.kind == kind)
        kept = (m.kind != kind) | fixed
        label = np.where(fixed, m.object_label[m.object] if len(m.object_label) else m.label, m.label)
        costs[name] = _mean_ap(label[kept], m.score[kept], (right | fixed)[kept], objects)
    without_missed = objects - np.bincount(m.object_label[missed], minlength=len(objects))
    costs["missed"] = _mean_ap(m.label, m.score, right, without_missed)
    found = np.bincount(m.label[right], minlength=len(objects))
    only_right = _mean_ap(m.label[right], m.score[right], right[right], objects)
    only_found = _mean_ap(m.label, m.score, right, found)
    return ErrorCosts(
        base, {name: max(ap - base, 0.0) for name, ap in costs.items()}, only_right - base, max(only_found - base, 0.0)
    )


def _correctable(m: Matches) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which wrong classes and boxes [D] are to be corrected, and which objects [N] are missed altogether."""
    unfound = np.ones(len(m.object_label), bool)
    unfound[m.object[m.kind == RIGHT]] = False
    near = np.flatnonzero((m.kind == CLASS) | (m.kind == LOCATION))
    near = near[unfound[m.object[near]]]
    objects, first = np.unique(m.object[near], return_index=True)  # the first of an object is the best
    fixes = np.zeros(len(m.kind), bool)
    fixes[near[first]] = True
    unfound[objects] = False
    return fixes, unfound


def _mean_ap(label: Ints, score: Floats, right: NDArray[np.bool_], objects: Ints) -> float:
    """Return the mean over classes with objects of AP at 101 recalls, as COCO computes it; -1 without objects."""
    order = np.lexsort((-score, label))
    ends = np.searchsorted(label[order], np.arange(len(objects) + 1))
    aps = []
    for k in np.flatnonzero(objects):
        hits = np.cumsum(right[order[ends[k] : ends[k + 1]]])
        precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        place = np.searchsorted(hits / objects[k], np.linspace(0, 1, 101))
        aps.append(np.append(precision, 0.0)[np.minimum(place, len(hits))].mean())
    return float(np.mean(aps)) if aps else -1.0
