"""Stage `evaluate`: three steps, detect, score and draw, which pass files to one another."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from m2det.data.packed.reader import cache_digest
from m2det.distributed.children import run_child
from m2det.files.inputs import FOLDER
from m2det.files.whole import write_whole
from tasks.common import CACHE, METRIC_DECIMALS, MODEL, RESULTS, params
from tasks.inputs import inputs_of

if TYPE_CHECKING:
    from m2det.data.packed.reader import PackedSplit
    from m2det.viz.detections import Review

DETECTIONS = RESULTS / "detections.json"
PICTURES = RESULTS / "pictures"
REPORT = RESULTS / "report.html"


def detect() -> None:
    """Write results/detections.json: COCO results on the validation images, by the processes of all nodes."""
    from m2det.distributed.group import Group
    from m2det.distributed.launch import count_processes, kept_if_failed, launch, needs_torchrun
    from m2det.distributed.nodes import Work
    from m2det.evaluate.rank import detect_val

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    processes = count_processes(params())
    if needs_torchrun(params(), processes):
        with kept_if_failed("evaluate") as folder:
            arguments = (inputs_of("evaluate").keep(folder / FOLDER), CACHE, MODEL, DETECTIONS, folder)
            inputs = (arguments[0], MODEL)
            work = Work("m2det.evaluate.rank", arguments, folder, inputs, CACHE, cache_digest(CACHE))
            launch(work, params(), processes, run_child)
    else:
        detect_val(params(), CACHE, MODEL, DETECTIONS, Group())


def score() -> None:
    """Write results/metrics.json (COCO's 12 numbers), plots by recall and by class, VOC's mAP, and evaluation.json."""
    from m2det.data.packed.reader import PackedSplit
    from m2det.evaluate.metrics import NAMES, class_ap, coco_scores
    from m2det.evaluate.record import write_record
    from m2det.evaluate.undefined import explain_undefined
    from m2det.evaluate.voc_metrics import voc_scores
    from m2det.viz.curves import draw_precision_recall, precision_by_recall, write_class_ap, write_precision_recall

    truth = PackedSplit(CACHE, "val").ground_truth
    scores = coco_scores(truth, DETECTIONS, params().evaluate.scorer)
    metrics = {name: round(scores.metrics[name], METRIC_DECIMALS) for name in NAMES}
    curves = precision_by_recall(scores.precision)
    write_precision_recall(RESULTS / "plots" / "precision_recall.csv", curves)
    draw_precision_recall(PICTURES / "precision_recall.png", curves)
    write_class_ap(RESULTS / "plots" / "classes.csv", class_ap(scores.metrics))
    write_whole(RESULTS / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    voc = voc_scores(truth, DETECTIONS)
    write_whole(RESULTS / "voc.json", json.dumps(voc, indent=2) + "\n")
    exact = {name: scores.metrics[name] for name in NAMES}
    write_record(RESULTS, MODEL, cache_digest(CACHE), scores.scorer, exact)
    if voc:
        print(f"VOC's mAP {voc['mAP_11_points']:.4f} by 11 points, {voc['mAP_all_points']:.4f} by all points")
    print("  ".join(f"{name} {scores.metrics[name]:.4f}" for name in ("AP", "AP50", "AP75")))
    for sentence in explain_undefined(scores.metrics):
        print(sentence)


def draw() -> None:
    """Draw the worst and best detections beside the ground truth, the learning curve, the labels, and the report."""
    import cv2
    import numpy as np

    from m2det.data.packed.reader import PackedSplit
    from m2det.model import get_config
    from m2det.text import undefined_note
    from m2det.viz.curves import draw_learning_curve
    from m2det.viz.detections import SHOWN_SCORE, draw_review, review
    from m2det.viz.labels import write_labels

    split = PackedSplit(CACHE, "val")
    label_of = {category_id: label for label, category_id in enumerate(split.category_ids, 1)}
    rows: dict[int, list[list[float]]] = {}
    for entry in json.loads(DETECTIONS.read_text()):
        x, y, w, h = entry["bbox"]
        row = [x, y, x + w - 1, y + h - 1, entry["score"], label_of[entry["category_id"]]]
        rows.setdefault(entry["image_id"], []).append(row)
    reviews = []
    for index, image_id in enumerate(split.image_ids.tolist()):
        objects = split.annotations(index)
        counted = ~objects.iscrowd
        detections = np.array(rows.get(image_id, []), np.float32).reshape(-1, 6)
        reviews.append(review(index, detections, objects.boxes[counted], objects.labels[counted]))
    metrics = json.loads((RESULTS / "metrics.json").read_text())
    found, total = sum(int(r.detected.sum()) for r in reviews), sum(len(r.detected) for r in reviews)
    wrong = sum(int((~r.correct).sum()) for r in reviews)
    ap = f"AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}{undefined_note(metrics['AP'])}"
    title = [
        f"{params().model.name} on {len(split)} validation images: {ap}; at score {SHOWN_SCORE} {found} of {total} "
        f"objects found, {wrong} detections wrong",
        "left: ground truth (green found, blue missed)   right: detections (green right, red wrong), with scores",
    ]
    _, png = cv2.imencode(".png", draw_review(split, reviews, title))
    write_whole(PICTURES / "detections.png", png.tobytes())
    draw_learning_curve(PICTURES / "learning_curve.png", RESULTS / "curves.csv")
    sizes = get_config(params().model.name, **params().model.all_overrides).prior_sizes
    splits = [PackedSplit(CACHE, "train"), split]
    write_labels(RESULTS / "plots" / "labels.csv", PICTURES / "labels.png", splits, sizes)
    _write_report(split, reviews)
    print(f"pictures: {', '.join(sorted(str(path) for path in PICTURES.glob('*.png')))}")
    print(f"report: {REPORT}")


def _write_report(split: PackedSplit, reviews: Sequence[Review]) -> None:
    """Write results/report.html, and its figures beside the others, of what the steps have written before."""
    from m2det.evaluate.difficult import without_difficult
    from m2det.evaluate.error_kinds import match_detections
    from m2det.evaluate.record import NAME
    from m2det.evaluate.report import Evaluated, make_report
    from m2det.model.model_file import load_trained

    truth, results = (json.loads(path.read_text()) for path in (split.ground_truth, DETECTIONS))
    record = json.loads((RESULTS / NAME).read_text())
    with (RESULTS / "plots" / "classes.csv").open(encoding="utf-8", newline="") as file:
        class_ap = [float(row["AP"] or -1) for row in csv.DictReader(file)]
    evaluated = Evaluated(
        card=load_trained(MODEL)[1],
        record=record,
        metrics=record["metrics"],
        class_ap=class_ap,
        voc=json.loads((RESULTS / "voc.json").read_text()),
        matches=match_detections(*without_difficult(truth, results)),
        reviews=reviews,
        split=split,
    )
    write_whole(REPORT, make_report(evaluated, PICTURES))
