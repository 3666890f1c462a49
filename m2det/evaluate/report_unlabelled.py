"""Pictures and page of images without ground truth, such as COCO's test images: nothing is called right or wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.evaluate.report_errors import figure_of
from m2det.evaluate.report_origin import describe_origin, describe_speed_here
from m2det.files.whole import write_whole
from m2det.text import images_of
from m2det.viz.detections import SHOWN_SCORE, SIDE
from m2det.viz.draw import BLUE, BoxAnnotation, contact_sheet, thumbnail
from m2det.viz.errors import draw_nothing
from m2det.viz.page import cut, grid, page, paragraph, photographs

EACH = 12  # images that are shown


@dataclass(frozen=True)
class Shown:
    """An image with its detections from SHOWN_SCORE on drawn, uint8 [SIDE,SIDE,3] BGR; index: in the split."""

    index: int
    count: int
    picture: NDArray[np.uint8]


def images_with_most(split: PackedSplit, results: Sequence[Mapping[str, Any]]) -> list[Shown]:
    """Return the EACH images with the most detections from SHOWN_SCORE on.

    Args:
        split: the images.
        results: the entries of a COCO results file on them.
    """
    names = dict(zip(split.category_ids, split.classes, strict=True))
    found: dict[int, list[BoxAnnotation]] = defaultdict(list)
    for entry in results:
        if entry["score"] >= SHOWN_SCORE:
            x, y, w, h = entry["bbox"]
            text = f"{names[entry['category_id']]} {entry['score']:.2f}"
            found[entry["image_id"]].append(BoxAnnotation((x, y, x + w - 1, y + h - 1), text, BLUE))
    ids = split.image_ids.tolist()
    most = sorted(range(len(ids)), key=lambda index: (-len(found[ids[index]]), index))[:EACH]
    images = {index: decode_bgr(split.record(index), split.file_names[index]) for index in most}
    return [Shown(i, len(found[ids[i]]), thumbnail(image, found[ids[i]], SIDE)) for i, image in images.items()]


def draw_unlabelled(split: PackedSplit, shown: Sequence[Shown], title: str, pictures: Path) -> None:
    """Write detections.png, and figures that say that there is no ground truth in place of those on errors."""
    captions = [f"image {split.image_ids[each.index]}, {_detections(each.count)}" for each in shown]
    parts = [(each.picture, caption) for each, caption in zip(shown, captions, strict=True)]
    sheet = contact_sheet(parts, 4, [title, "the images with the most detections, with scores"])
    write_whole(pictures / "detections.png", cv2.imencode(".png", sheet)[1].tobytes())
    for name in ("calibration", "confusion_matrix", "error_kinds", "thresholds"):  # which dvc.yaml lists
        draw_nothing(pictures / f"{name}.png")


def make_unlabelled_report(
    card: Mapping[str, Any],
    record: Mapping[str, Any],
    speed: Mapping[str, Any],
    split: PackedSplit,
    shown: Sequence[Shown],
    detections: int,
    pictures: Path,
) -> str:
    """Return the page.

    Args:
        card: the model's.
        record: results/evaluation.json.
        speed: results/detection_speed.json.
        split: the images.
        shown: those with the most detections.
        detections: on all images.
        pictures: the folder of the figures learning_curve and labels.
    """
    photos = [
        photographs(
            [each.picture],
            f"image {split.image_ids[each.index]}, {cut(split.file_names[each.index])}: {_detections(each.count)}",
        )
        for each in shown
    ]
    counts = f"{detections:,} detections on {len(split):,} images"
    sections = [
        ("", [paragraph(f"{counts}. No image has ground truth here, so that no score is known.")]),
        ("Images with the most detections", [grid(photos)]),
        ("The training", [figure_of(pictures / "learning_curve.png"), figure_of(pictures / "labels.png", large=True)]),
        ("Speed", describe_speed_here(speed)),
        ("Where the model came from", describe_origin(card, record, split)),
    ]
    return page(f"{card['model']} on {len(split)} {images_of(split.name)}", sections)


def _detections(count: int) -> str:
    return f"{count} detections from score {SHOWN_SCORE} on"
