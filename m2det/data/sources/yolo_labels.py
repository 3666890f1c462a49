"""A label file of YOLO: one object a line, `class x y w h` as shares of the image, or the corners of an outline."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from m2det.errors import InputError

NUMBER = re.compile(r"[+-]?(\d{1,20}\.?\d{0,40}|\.\d{1,40})(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
TOLERANCE = 0.01  # of the image: what exporters' rounding exceeds it by at most, which is cut
QUOTED = 60  # characters of a line
OUTLINE, KEYPOINTS = "outlines", "keypoints"


class Box(NamedTuple):
    """An object: its class's number, and its box as shares of the image's width and height."""

    label: int
    x1: float
    y1: float
    x2: float
    y2: float


def read_labels(data: bytes, name: str, labels: Collection[int], keypoints: int, kinds: Counter[str]) -> list[Box]:
    """Return the objects of a label file; an empty one has none.

    Args:
        data: the file.
        name: of the file, for messages.
        labels: the numbers of the classes.
        keypoints: how many numbers follow a box (data.yaml's kpt_shape); 0 for none.
        kinds: counts the objects that have more than a box, by OUTLINE and KEYPOINTS.

    Raises:
        InputError: a line, which is named, is none of YOLO's.
    """
    try:
        lines = data.decode(json.detect_encoding(data)).removeprefix("\ufeff").splitlines()  # Windows: also UTF-16
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no text ({error}); save it as UTF-8, or export the labels again") from error
    return [
        _box(line.split(), f"{name}, line {number}", labels, keypoints, kinds)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _box(words: list[str], where: str, labels: Collection[int], keypoints: int, kinds: Counter[str]) -> Box:
    for word in words:
        if not NUMBER.fullmatch(word):
            raise InputError(f"{where}: {word[:QUOTED]!r} is no number; a line is `class x y w h`, or an outline")
    label, *values = map(float, words)
    if label not in labels:
        raise InputError(
            f"{where}: class {words[0]} has no name; data.yaml names {len(labels)}, {min(labels)} to {max(labels)}"
        )
    outline = not keypoints and len(values) >= 6 and len(values) % 2 == 0
    if not (len(values) == 4 + keypoints or outline):
        found = (
            "; a score, as in detections, is to be removed"
            if len(values) == 5
            else ", or an outline of 3 points or more"
        )
        raise InputError(
            f"{where} has {len(words)} columns; a line is `class x y w h`{' and keypoints' * bool(keypoints)}{found}"
        )
    values = [_share(value, where) for value in (values if outline else values[:4])]
    if outline:
        kinds[OUTLINE] += 1
        return Box(int(label), min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    kinds[KEYPOINTS] += bool(keypoints)
    x, y, w, h = values
    return Box(int(label), x - w / 2, y - h / 2, x + w / 2, y + h / 2)


def _share(value: float, where: str) -> float:
    if not -TOLERANCE <= value <= 1 + TOLERANCE:
        raise InputError(
            f"{where}: {value:g} is not between 0 and 1; YOLO's numbers are shares of the image's width and height: "
            "divide pixels by these"
        )
    return min(max(value, 0.0), 1.0)
