"""Stage `evaluate`: three steps, detect, score and draw, which pass files to one another."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from m2det.distributed.children import run_child
from m2det.files.inputs import FOLDER
from m2det.files.whole import write_whole
from tasks.common import CACHE, METRIC_DECIMALS, MODEL, RESULTS, evaluated_cache, params
from tasks.inputs import inputs_of

if TYPE_CHECKING:
    from pathlib import Path

    from m2det.config import Params
    from m2det.data.packed.reader import PackedSplit
    from m2det.evaluate.error_kinds import Matches

DETECTIONS = RESULTS / "detections.json"
PICTURES = RESULTS / "pictures"
REPORT = RESULTS / "report.html"


def detect() -> None:
    """Write results/detections.json: COCO results on the images of `evaluate.split`, by the processes of all nodes.

    And results/detection_speed.json: how many images per second.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    run_detection(params(), MODEL, DETECTIONS)


def run_detection(settings: Params, model: Path, out: Path) -> None:
    """Detect on the images of `evaluate.split`, in as many processes as `run` says and the device's environment.

    Args:
        settings: of this project; of another `run.nodes` than params.yaml's, perhaps.
        model: the trained model's file.
        out: the JSON file to write; its speed is written beside it.
    """
    from m2det.data.packed.reader import cache_digest
    from m2det.distributed.group import Group
    from m2det.distributed.launch import count_processes, kept_if_failed, launch, needs_torchrun
    from m2det.distributed.nodes import Work
    from m2det.evaluate.rank import detect_split

    processes, cache = count_processes(settings), evaluated_cache()
    if needs_torchrun(settings, processes):
        with kept_if_failed("evaluate") as folder:
            arguments = (inputs_of("evaluate").keep(folder / FOLDER), cache, model, out, folder)
            inputs = (arguments[0], model)
            work = Work("m2det.evaluate.rank", arguments, folder, inputs, cache, cache_digest(cache))
            launch(work, settings, processes, run_child)
    else:
        detect_split(settings, cache, model, out, Group())


def evaluated_split() -> PackedSplit:
    """Return the images of `evaluate.split`."""
    from m2det.data.packed.reader import PackedSplit

    return PackedSplit(evaluated_cache(), params().evaluate.split)


def score() -> None:
    """Write results/metrics.json (COCO's 12 numbers), plots by recall and by class, VOC's mAP, and evaluation.json."""
    from m2det.evaluate.metrics import NAMES, coco_scores
    from m2det.evaluate.record import write_record
    from m2det.evaluate.undefined import explain_undefined
    from m2det.evaluate.voc_metrics import voc_scores
    from m2det.viz.curves import draw_precision_recall, precision_by_recall, write_class_ap, write_precision_recall

    split = evaluated_split()
    truth = split.ground_truth
    scores = coco_scores(truth, DETECTIONS, params().evaluate.scorer)
    metrics = {name: round(scores.metrics[name], METRIC_DECIMALS) for name in NAMES}
    curves = precision_by_recall(scores.precision)
    write_precision_recall(RESULTS / "plots" / "precision_recall.csv", curves)
    draw_precision_recall(PICTURES / "precision_recall.png", curves)
    write_class_ap(RESULTS / "plots" / "classes.csv", split.classes, scores.class_ap)
    write_whole(RESULTS / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    voc = voc_scores(truth, DETECTIONS)
    write_whole(RESULTS / "voc.json", json.dumps(voc, indent=2) + "\n")
    exact = {name: scores.metrics[name] for name in NAMES}
    write_record(RESULTS, MODEL, split, scores.scorer, exact)
    if voc:
        print(f"VOC's mAP {voc['mAP_11_points']:.4f} by 11 points, {voc['mAP_all_points']:.4f} by all points")
    print("  ".join(f"{name} {scores.metrics[name]:.4f}" for name in ("AP", "AP50", "AP75")))
    for sentence in explain_undefined(scores.metrics):
        print(sentence)
    if split.name == "test":
        print(f"{RESULTS} is of test images now; evaluate.split: val and `dvc repro` make that of validation again")


def draw() -> None:
    """Draw the learning curve, the labels and the detections, beside the ground truth if any; write the page."""
    split = evaluated_split()
    _draw_training(split)
    truth, results = (json.loads(path.read_text()) for path in (split.ground_truth, DETECTIONS))
    if truth["annotations"]:
        _draw_labelled(split, truth, results)
    else:
        _draw_unlabelled(split, results)
    print(f"pictures: {', '.join(sorted(str(path) for path in PICTURES.glob('*.png')))}")
    print(f"report: {REPORT}")


def _draw_training(split: PackedSplit) -> None:
    from m2det.data.packed.reader import PackedSplit
    from m2det.model import get_config
    from m2det.viz.curves import draw_learning_curve
    from m2det.viz.labels import write_labels

    draw_learning_curve(PICTURES / "learning_curve.png", RESULTS / "curves.csv")
    sizes = get_config(params().model.name, **params().model.all_overrides).prior_sizes
    splits = [PackedSplit(CACHE, "train"), split]
    write_labels(RESULTS / "plots" / "labels.csv", PICTURES / "labels.png", splits, sizes)


def _draw_unlabelled(split: PackedSplit, results: list[dict[str, Any]]) -> None:
    """Draw the images with the most detections, and write the page, of images without ground truth."""
    from m2det.evaluate import record, speed
    from m2det.evaluate.report_unlabelled import draw_unlabelled, images_with_most, make_unlabelled_report
    from m2det.model.model_file import load_trained
    from m2det.text import images_of

    shown = images_with_most(split, results)
    title = f"{params().model.name} on {len(split)} {images_of(split.name)}: {len(results)} detections, no ground truth"
    draw_unlabelled(split, shown, title, PICTURES)
    recorded, measured = (json.loads((RESULTS / name).read_text()) for name in (record.NAME, speed.NAME))
    card = load_trained(MODEL)[1]
    write_whole(REPORT, make_unlabelled_report(card, recorded, measured, split, shown, len(results), PICTURES))


def _draw_labelled(split: PackedSplit, truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Draw the worst and best detections beside the ground truth, and write the page."""
    import cv2

    from m2det.evaluate.difficult import without_difficult
    from m2det.evaluate.error_kinds import match_detections
    from m2det.evaluate.reviews import review_images
    from m2det.text import images_of, undefined_note
    from m2det.viz.detections import SHOWN_SCORE, draw_review

    matches = match_detections(*without_difficult(truth, results))
    reviews = review_images(matches, truth, split.image_ids.tolist(), SHOWN_SCORE)
    metrics = json.loads((RESULTS / "metrics.json").read_text())
    found, total = sum(int(r.detected.sum()) for r in reviews), sum(len(r.detected) for r in reviews)
    wrong = sum(int((~r.correct).sum()) for r in reviews)
    ap = f"AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}{undefined_note(metrics['AP'])}"
    title = [
        f"{params().model.name} on {len(split)} {images_of(split.name)}: {ap}; at score {SHOWN_SCORE} {found} of "
        f"{total} objects found, {wrong} detections wrong",
        "left: ground truth (green found, blue missed, grey not counted)   right: detections (green right, red wrong), "
        "with scores",
    ]
    _, png = cv2.imencode(".png", draw_review(split, reviews, title))
    write_whole(PICTURES / "detections.png", png.tobytes())
    _write_report(split, truth, matches)


def _write_report(split: PackedSplit, truth: dict[str, Any], matches: Matches) -> None:
    """Write results/report.html, and its figures beside the others, of what the steps have written before."""
    from m2det.evaluate import record, speed
    from m2det.evaluate.report import Evaluated, make_report
    from m2det.model.model_file import load_trained
    from m2det.viz.curves import read_class_ap

    written = {name: json.loads((RESULTS / name).read_text()) for name in (record.NAME, speed.NAME, "voc.json")}
    evaluated = Evaluated(
        card=load_trained(MODEL)[1],
        record=written[record.NAME],
        metrics=written[record.NAME]["metrics"],
        class_ap=read_class_ap(RESULTS / "plots" / "classes.csv"),
        speed=written[speed.NAME],
        voc=written["voc.json"],
        truth=truth,
        matches=matches,
        split=split,
    )
    write_whole(REPORT, make_report(evaluated, PICTURES))
