"""Error kinds and their costs against a plain twin of TIDE's rules, and against TIDE's own figures on COCO's sample."""

import json

import numpy as np
import pytest

from m2det.evaluate.difficult import without_difficult
from m2det.evaluate.error_kinds import KINDS, RIGHT, error_costs, match_detections
from m2det.evaluate.metrics import coco_metrics
from m2det.evaluate.thresholds import (
    STEPS,
    calibration,
    confusion_matrix,
    confusions,
    count_kinds,
    threshold_curves,
)

NAMES = ["right", *list(KINDS)[:-1]]


def overlap(a, b, crowd=False):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / (a[2] * a[3] + (0 if crowd else b[2] * b[3] - shared))


def twin_kinds(truth, results):
    """Each detection's kind and object, by loops; a crowd's detections are dropped. Sets `found` of the objects."""
    objects = [a | {"found": False, "near": []} for a in truth["annotations"] if not a.get("iscrowd")]
    crowds = [a for a in truth["annotations"] if a.get("iscrowd")]
    detections = []
    for d in sorted(results, key=lambda d: -d["score"]):
        here = [o for o in objects if o["image_id"] == d["image_id"]]
        own = [(overlap(d["bbox"], o["bbox"]), o) for o in here if o["category_id"] == d["category_id"]]
        other = [(overlap(d["bbox"], o["bbox"]), o) for o in here if o["category_id"] != d["category_id"]]
        free = [pair for pair in own if pair[0] >= 0.5 and not pair[1]["found"]]
        inside = [
            overlap(d["bbox"], c["bbox"], crowd=True)
            for c in crowds
            if (c["image_id"], c["category_id"]) == (d["image_id"], d["category_id"])
        ]
        best_own, best_other = (max(pairs, key=lambda pair: pair[0], default=(0, None)) for pairs in (own, other))
        if free:
            kind, target = "right", max(free, key=lambda pair: pair[0])[1]
            target["found"] = True
        elif max(inside, default=0) >= 0.5:
            continue
        elif 0.1 <= best_own[0] < 0.5:
            kind, target = "localisation", best_own[1]
        elif best_other[0] >= 0.5:
            kind, target = "classification", best_other[1]
        elif best_own[0] >= 0.5:
            kind, target = "duplicate", None
        elif max(best_own[0], best_other[0]) <= 0.1:
            kind, target = "background", None
        else:
            kind, target = "both", None
        detections.append(d | {"kind": kind, "object": target})
    return objects, detections


def twin_ap(objects, detections):
    """Mean over classes of AP at 101 recalls; detections as (class, score, right), objects as classes."""
    aps = []
    for c in sorted(set(objects)):
        total, hits, points = objects.count(c), 0, []
        for n, (_, _, right) in enumerate(sorted((d for d in detections if d[0] == c), key=lambda d: -d[1]), 1):
            hits += right
            points.append((hits / total, hits / n))
        aps.append(np.mean([max((p for r, p in points if r >= t), default=0) for t in np.linspace(0, 1, 101)]))
    return np.mean(aps)


def twin_costs(truth, results):
    objects, detections = twin_kinds(truth, results)
    classes = [o["category_id"] for o in objects]
    plain = [(d["category_id"], d["score"], d["kind"] == "right") for d in detections]
    base = twin_ap(classes, plain)
    corrected = set()  # of each object that is not found: the best detection with a wrong class or box
    for n, d in enumerate(detections):
        if d["kind"] in ("classification", "localisation") and not d["object"]["found"]:
            if not d["object"]["near"]:
                corrected.add(n)
            d["object"]["near"].append(n)
    costs = {}
    for kind in NAMES[1:]:
        fixed = []
        for n, d in enumerate(detections):
            if d["kind"] != kind:
                fixed.append(plain[n])
            elif n in corrected:
                fixed.append((d["object"]["category_id"], d["score"], True))
        costs[kind] = twin_ap(classes, fixed) - base
    seen = [o["category_id"] for o in objects if o["found"] or o["near"]]
    costs["missed"] = twin_ap(seen, plain) - base
    found = [o["category_id"] for o in objects if o["found"]]
    specials = (twin_ap(classes, [p for p in plain if p[2]]) - base, twin_ap(found, plain) - base)
    return base, {kind: max(cost, 0) for kind, cost in costs.items()}, specials


def random_data(seed, classes=4, images=12):
    """Objects, some in crowds, and detections near them, some with another class, and others anywhere."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 7)):
            box, c = [*rng.uniform(0, 120, 2), *rng.uniform(15, 80, 2)], int(rng.integers(classes))
            crowd = int(rng.random() < 0.1)
            annotations.append({"image_id": image, "category_id": 10 - c, "bbox": box, "iscrowd": crowd})
            for _ in range(rng.integers(0, 4)):
                moved = np.abs(np.array(box) + rng.normal(0, rng.choice([2, 25]), 4)) + 1
                c = c if rng.random() < 0.75 else int(rng.integers(classes))
                results.append({"image_id": image, "category_id": 10 - c, "bbox": moved.tolist()})
        for _ in range(rng.integers(0, 3)):
            box = [*rng.uniform(0, 150, 2), *rng.uniform(10, 40, 2)]
            results.append({"image_id": image, "category_id": 10 - int(rng.integers(classes)), "bbox": box})
    for result, score in zip(results, rng.permutation(len(results)), strict=True):
        result["score"] = round(0.05 + 0.9 * int(score) / len(results), 5)
    truth = {
        "images": [{"id": i, "width": 250, "height": 250, "file_name": f"{i}.jpg"} for i in range(1, images + 1)],
        "categories": [{"id": 10 - c, "name": f"class {c}"} for c in range(classes)],
        "annotations": [a | {"id": n, "area": a["bbox"][2] * a["bbox"][3]} for n, a in enumerate(annotations, 1)],
    }
    return truth, results


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_kinds_and_costs_are_those_of_a_plain_twin(seed, classes):
    truth, results = random_data(seed, classes)
    matches, (objects, detections) = match_detections(truth, results), twin_kinds(truth, results)
    kinds = sorted((d["score"], d["kind"]) for d in detections)
    assert sorted((s, NAMES[k]) for s, k in zip(matches.score, matches.kind, strict=True)) == kinds
    assert len(matches.object_label) == len(objects)
    base, by_kind, specials = twin_costs(truth, results)
    costs = error_costs(matches)
    assert costs.ap50 == pytest.approx(base, abs=1e-9)
    assert costs.by_kind == pytest.approx(by_kind, abs=1e-9) and max(by_kind.values()) > 0.01
    assert (costs.false_positive, costs.false_negative) == pytest.approx(specials, abs=1e-9)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.77])
@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_a_plain_twin(seed, threshold):
    """The twin matches the detections from the threshold on as if there were no others."""
    truth, results = random_data(seed)
    objects, detections = twin_kinds(truth, [d for d in results if d["score"] >= threshold])
    expected = {kind: sum(d["kind"] == kind for d in detections) for kind in NAMES[1:]}
    near = [id(d["object"]) for d in detections if d["object"]]
    expected["missed"] = sum(id(o) not in near for o in objects)
    assert count_kinds(match_detections(truth, results), threshold) == expected


@pytest.mark.parametrize("seed", range(2))
def test_its_ap50_is_the_metrics(tmp_path, seed):
    truth, results = random_data(seed)
    crowded = [results[0] | {"score": 0.99 - n / 1000} for n in range(130)]  # COCO counts 100 of a class on an image
    results += crowded
    for name, content in (("truth", truth), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    metrics = coco_metrics(tmp_path / "truth.json", tmp_path / "results.json", "pycocotools")
    assert error_costs(match_detections(truth, results)).ap50 == pytest.approx(metrics["AP50"], abs=1e-9)


def test_on_cocos_sample_it_finds_what_tide_finds(shared):
    """Figures of tidecv 1.0.1, which here leaves out classes without objects, as COCO's AP50 does."""
    folder = shared / "eval-oracle" / "fakebbox100"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    matches = match_detections(truth, results)
    assert count_kinds(matches, 0) == dict(zip(KINDS, [83, 1, 0, 1, 0, 97], strict=True))
    costs = error_costs(matches)
    assert list(costs.by_kind.values()) == pytest.approx([0.1674, 0.0025, 0, 0.0002, 0, 0.1051], abs=2e-4)
    assert (costs.false_positive, costs.false_negative) == pytest.approx((0.0741, 0.2061), abs=2e-4)


def truth_of(*objects):
    annotations = [{"image_id": 1, "category_id": c, "bbox": box} for c, box in objects]
    return {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]} | {
        "annotations": annotations
    }


def detected(*rows):
    return [{"image_id": 1, "category_id": c, "bbox": box, "score": score} for c, box, score in rows]


A, B, NEAR_A, NOWHERE = [10, 10, 40, 40], [100, 100, 50, 50], [30, 10, 40, 40], [200, 10, 20, 20]


def test_nothing_detected_is_all_missed():
    matches = match_detections(truth_of((1, A), (2, B)), [])
    costs = error_costs(matches)
    assert costs.ap50 == 0 and max(costs.by_kind.values()) == 0 and count_kinds(matches, 0.5)["missed"] == 2
    curves = threshold_curves(matches)
    assert curves.recall.max() == curves.f1.max() == 0 and curves.precision.min() == 1
    assert confusions(matches, 0.5).tolist() == [[0, -1, 1], [1, -1, 1]] and calibration(matches).error == 0


def test_without_objects_all_is_background():
    matches = match_detections(truth_of(), detected((1, A, 0.9), (2, B, 0.4)))
    costs = error_costs(matches)
    assert costs.ap50 == -1 and set(costs.by_kind.values()) == {0.0}
    assert count_kinds(matches, 0.5) == dict.fromkeys(KINDS, 0) | {"background": 1}
    assert confusion_matrix(confusions(matches, 0), 2).tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]
    assert threshold_curves(matches).precision[0] == 0 and calibration(matches).error == pytest.approx(0.65)


def test_without_both():
    matches = match_detections(truth_of(), [])
    assert error_costs(matches).ap50 == -1 and len(confusions(matches, 0)) == 0
    assert count_kinds(matches, 0) == dict.fromkeys(KINDS, 0)


def test_the_right_box_with_the_wrong_class_is_told():
    rows = detected((2, A, 0.9), (1, NEAR_A, 0.8), (2, B, 0.7), (2, B, 0.6), (1, NOWHERE, 0.3))
    matches = match_detections(truth_of((1, A), (2, B)), rows)
    expected = ["classification", "localisation", "right", "duplicate", "background"]
    assert [NAMES[kind] for kind in matches.kind] == expected
    assert confusion_matrix(confusions(matches, 0.5), 2).tolist() == [[0, 1, 0], [0, 1, 0], [1, 1, 0]]
    assert confusion_matrix(confusions(matches, 0.95), 2).tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert count_kinds(matches, 0.75)["missed"] == 1, "the dog: at this score none is near it"


@pytest.mark.parametrize("seed", range(3))
def test_curves_and_confusions_count_every_detection_and_object_once(seed):
    truth, results = random_data(seed)
    matches = match_detections(truth, results)
    curves = threshold_curves(matches)
    for step in (0, 30, 50, 77, 100):
        shown = matches.score >= STEPS[step]
        right, total = (shown & (matches.kind == RIGHT)).sum(), len(matches.object_label)
        assert curves.recall[step] == right / total
        assert curves.precision[step] == (right / shown.sum() if shown.any() else 1)
        assert curves.f1[step] == pytest.approx(2 * right / (shown.sum() + total))
        matrix = confusion_matrix(confusions(matches, STEPS[step]), len(matches.classes))
        assert np.trace(matrix) == right
        assert matrix[:-1].sum(1).tolist() == np.bincount(matches.object_label, minlength=4).tolist()
        assert matrix[:, :-1].sum(0).tolist() == np.bincount(matches.label[shown], minlength=4).tolist()
    assert curves.f1[curves.best] == curves.f1.max() and (curves.f1[curves.best + 1 :] < curves.f1.max()).all()


def test_calibration_compares_scores_with_shares():
    rows = detected((1, A, 0.95), (1, NOWHERE, 0.91), (2, B, 0.15))
    found = calibration(match_detections(truth_of((1, A), (2, B)), rows))
    assert found.count.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.score[9] == pytest.approx(0.93) and found.right[[1, 9]].tolist() == [1, 0.5]
    assert found.error == pytest.approx((0.85 + 2 * 0.43) / 3)


def test_difficult_objects_are_no_errors():
    truth = truth_of((1, A), (2, B))
    for annotation, difficult in zip(truth["annotations"], (0, 1), strict=True):
        annotation["voc_difficult"] = difficult
    matches = match_detections(*without_difficult(truth, detected((1, A, 0.9), (2, B, 0.8))))
    assert matches.kind.tolist() == [RIGHT] and matches.object_label.tolist() == [0]
