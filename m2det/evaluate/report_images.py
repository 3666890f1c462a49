"""The parts of the report page that show images: the worst and the best, and those with the most errors of a kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from m2det.data.packed.reader import PackedSplit
from m2det.evaluate.error_kinds import KINDS, RIGHT, Matches
from m2det.viz.detections import Review, draw_pair, worst_and_best
from m2det.viz.page import Html, cut, grid, paragraph, photographs

EACH = 6  # worst and best images
EACH_KIND = 2  # images of a kind of error


def describe_images(split: PackedSplit, reviews: Sequence[Review], score: float) -> list[Html]:
    """Return the worst and the best images by F1, each as objects and detections from a score on."""
    explanation = (
        "First the objects: green found, blue missed, grey not counted, as crowds. Then the detections from score "
        f"{score:.2f} on: green right, red wrong; those of objects that do not count are left out."
    )
    pairs = (_pair(split, item, f"{kind}: {item.summary}") for kind, item in worst_and_best(reviews, EACH))
    return [paragraph(explanation), grid(pairs)]


def describe_images_of_kinds(
    split: PackedSplit, reviews: Sequence[Review], matches: Matches, score: float
) -> list[Html]:
    """Return for each kind of error the images with the most.

    Args:
        split: of the images.
        reviews: one for each image.
        matches: of the detections with the objects.
        score: from which on `reviews` shows detections.
    """
    shown = matches.score >= score
    parts: list[Html] = []
    for kind, name in enumerate(KINDS, 1):
        images = matches.image_id[shown & (matches.kind == kind)] if name != "missed" else _missed(matches, shown)
        for image_id, count in _most(images):
            item = reviews[int(np.searchsorted(split.image_ids, image_id))]
            if name != "missed":
                item = _of_kind(item, matches.kind[shown & (matches.image_id == image_id)], kind)
            parts.append(_pair(split, item, f"{name} x {count}"))
    if not parts:
        return [paragraph(f"No detection from score {score:.2f} on is wrong, and no object is missed.")]
    explanation = (
        f"The images with the most errors of each kind from score {score:.2f} on. Drawn are the detections of "
        "the kind and the right ones; where objects are missed, all."
    )
    return [paragraph(explanation), grid(parts)]


def _missed(matches: Matches, shown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the image ids of the objects that `count_kinds` counts as missed."""
    missed = np.full(len(matches.object_label), True)
    missed[matches.object[shown & (matches.object >= 0)]] = False
    return matches.object_image[missed]


def _most(images: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the EACH_KIND most frequent ids with how often they occur; of equal ones the lower first."""
    ids, counts = np.unique(images, return_counts=True)
    for position in np.argsort(-counts, kind="stable")[:EACH_KIND]:
        yield int(ids[position]), int(counts[position])


def _of_kind(item: Review, kinds: NDArray[np.int64], kind: int) -> Review:
    """Return the review with the detections alone that are right or of a kind."""
    kept = (kinds == RIGHT) | (kinds == kind)
    return replace(item, detections=item.detections[kept], correct=item.correct[kept])


def _pair(split: PackedSplit, item: Review, text: str) -> Html:
    name = cut(str(split.file_names[item.index]))
    return photographs(draw_pair(split, item), f"{text}. Image {split.image_ids[item.index]}, {name}")
