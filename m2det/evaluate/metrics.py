"""COCO's detection metrics, by pycocotools (the reference) or hotcoco (the same numbers, far faster)."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2det.errors import InputError
from m2det.evaluate.difficult import without_difficult
from m2det.evaluate.results_file import read_results

ID_TABLES = {"image_id": "images", "category_id": "categories"}
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CLASS = "AP/"  # before the name of a class


@dataclass(frozen=True)
class CocoScores:
    """The result of `coco_scores`.

    Attributes:
        metrics: As `coco_metrics` returns them.
        precision: float64 [T,R,K] over IoU 0.50:0.05:0.95, recall 0:0.01:1 and classes by category id, at 100
            detections per image; -1 for a class without ground truth.
        class_ap: float64 [K,4], AP, APs, APm, APl of each class by category id; -1 without such ground truth.
        scorer: hotcoco or pycocotools.
    """

    metrics: dict[str, float]
    precision: NDArray[np.float64]
    class_ap: NDArray[np.float64]
    scorer: str


def coco_metrics(ground_truth_json: str | Path, results_json: str | Path, backend: str = "auto") -> dict[str, float]:
    """Return the twelve numbers of COCO's box evaluation, then `AP/<class name>` by category id.

    Args:
        ground_truth_json: Annotations in COCO format.
        results_json: A list of {image_id, category_id, bbox (xywh), score}; an empty one gives AP 0.
        backend: hotcoco, pycocotools, or auto (hotcoco if installed).

    Returns:
        Metrics by name, in [0,1]; as in pycocotools -1 where no ground truth exists.

    Raises:
        InputError: The results are no list of such entries on images and classes of the ground truth, with finite
            numbers; or the backend is unknown.
    """
    return coco_scores(ground_truth_json, results_json, backend).metrics


def coco_scores(ground_truth_json: str | Path, results_json: str | Path, backend: str = "auto") -> CocoScores:
    """Return `coco_metrics` and the precision that it averages. Args and Raises as `coco_metrics`.

    VOC's difficult objects do not count (m2det.evaluate.difficult).
    """
    truth = json.loads(Path(ground_truth_json).read_text())
    results = read_results(results_json, truth, ground_truth_json)
    truth, results = without_difficult(truth, results)
    backend = choose_scorer(backend)
    with contextlib.redirect_stdout(io.StringIO()):  # both print tables
        run = _evaluate(truth, results, backend)
    precision = np.asarray(run.eval["precision"], dtype=np.float64)[..., -1]  # [T,R,K,A]: IoU, recall, class, size
    defined = precision > -1
    sums, counts = (precision * defined).sum((0, 1)), defined.sum((0, 1))
    class_ap = np.divide(sums, counts, out=np.full(counts.shape, -1.0), where=counts > 0)
    metrics = dict(zip(NAMES, map(float, run.stats), strict=True))
    categories = sorted(truth["categories"], key=lambda c: c["id"])
    metrics |= {CLASS + category["name"]: float(ap) for category, ap in zip(categories, class_ap[:, 0], strict=True)}
    return CocoScores(metrics, precision[..., 0], class_ap, backend)


def choose_scorer(backend: str) -> str:
    """Return the scorer's name; for auto hotcoco if installed, else pycocotools."""
    if backend == "auto":
        return "hotcoco" if find_spec("hotcoco") else "pycocotools"
    return backend


def _evaluate(truth: dict[str, Any], results: list[Any], backend: str) -> Any:
    if backend == "hotcoco":
        import hotcoco

        truth, results = _without_negative_ids(truth, results)
        ground_truth = hotcoco.COCO(truth)
        run = hotcoco.COCOeval(ground_truth, ground_truth.load_res(results), "bbox")
    elif backend == "pycocotools":
        from pycocotools import coco, cocoeval

        # unlike hotcoco, pycocotools needs area and iscrowd, and takes a match with annotation id 0 for no match
        annotations = [
            {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], **a, "id": number}
            for number, a in enumerate(truth["annotations"], 1)
        ]
        ground_truth = _index(coco.COCO(), {**truth, "annotations": annotations})
        # loadRes cannot load an empty list
        empty = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
        detected = ground_truth.loadRes(results) if results else _index(coco.COCO(), empty)
        run = cocoeval.COCOeval(ground_truth, detected, "bbox")
    else:
        raise InputError(f"no scorer is called {backend!r}; use auto, hotcoco or pycocotools")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run


def _without_negative_ids(truth: dict[str, Any], results: list[Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return both; where ids are negative, which hotcoco cannot read, copies with ids from 0, in order."""
    ids = {key: sorted(entry["id"] for entry in truth[table]) for key, table in ID_TABLES.items()}
    if all(each[0] >= 0 for each in ids.values() if each):
        return truth, results
    number = {key: {old: new for new, old in enumerate(each)} for key, each in ids.items()}
    images, categories = (
        [entry | {"id": number[key][entry["id"]]} for entry in truth[table]] for key, table in ID_TABLES.items()
    )
    annotations, detections = (
        [entry | {key: number[key].get(entry[key], -1) for key in number} for entry in each]
        for each in (truth["annotations"], results)
    )
    return {**truth, "images": images, "categories": categories, "annotations": annotations}, detections


def _index(coco: Any, dataset: dict[str, Any]) -> Any:
    coco.dataset = dataset
    coco.createIndex()
    return coco
