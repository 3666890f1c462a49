"""Read a COCO results file in full before it is scored: the scorers differ in what they do with wrong entries."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from reprlib import repr as short
from typing import Any

from m2det.errors import InputError
from m2det.files.regular_file import read_file

KEYS = ("image_id", "category_id", "bbox", "score")
MAX_IDS = 10  # in a sentence


def read_results(results_json: str | Path, truth: dict[str, Any], truth_name: str | Path) -> list[dict[str, Any]]:
    """Return the entries of a results file, whose ids are the ground truth's, and whose numbers are finite.

    Args:
        results_json: A list of {image_id, category_id, bbox (xywh, px), score}; further keys are allowed.
        truth: Ground truth in COCO's format.
        truth_name: Its file, for the sentence.

    Raises:
        InputError: The file is missing, no JSON, no list, or has a wrong entry; with the first one's number, from 1.
    """
    results = _read_list(results_json)
    ids = {
        "image_id": {image["id"] for image in truth["images"]},
        "category_id": {category["id"] for category in truth["categories"]},
    }
    for number, entry in enumerate(results, 1):
        fault = _fault(entry, ids, truth_name)
        if fault:
            raise InputError(f"{results_json}: entry {number} of {len(results)} {fault}")
    return results


def _read_list(results_json: str | Path) -> list[Any]:
    try:
        results = json.loads(read_file(results_json))
    except (ValueError, RecursionError) as error:  # not UTF-8, broken syntax, or nested without end
        if isinstance(error, InputError):
            raise
        raise InputError(f"{results_json} is no valid JSON ({error}); it may be truncated: detect again") from error
    if isinstance(results, list):
        return results
    kind = "an annotation file" if isinstance(results, dict) and "images" in results else "no list"
    raise InputError(f"{results_json} is {kind}: give COCO's results, a list of objects with {', '.join(KEYS)}")


def _fault(entry: Any, ids: dict[str, set[Any]], truth_name: str | Path) -> str:
    """Return what is wrong with an entry and what to do, to follow its number; empty if nothing is."""
    if not isinstance(entry, dict):
        return f"is {short(entry)}: each must be an object with {', '.join(KEYS)}"
    for key in KEYS:
        if key not in entry:
            return f"has no {key}: each needs {', '.join(KEYS)}; write it, or leave the entry out"
    image, category, box, score = (entry[key] for key in KEYS)
    if type(image) is not int or image not in ids["image_id"]:
        return (
            f"is on image {short(image)}, which {truth_name} does not have; they belong to different splits: give the "
            "results and the annotations of the same one"
        )
    if type(category) is not int or category not in ids["category_id"]:
        known = sorted(ids["category_id"])
        listed = ", ".join(map(str, known[:MAX_IDS])) + (", ..." if len(known) > MAX_IDS else "")
        return (
            f"has category_id {short(category)}, which {truth_name} does not have; write its category ids ({listed}), "
            "not positions of classes"
        )
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)) or min(box[2:]) < 0:
        return f"has bbox {short(box)}: write four finite numbers, x, y, width and height in pixels, no side below 0"
    if not _is_finite(score):
        return f"has score {short(score)}: write a finite number, or leave the entry out"
    return ""


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
