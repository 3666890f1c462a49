"""VOC's difficult objects and its mAP, against a plain twin of the development kit's rule."""

import json

import numpy as np
import pytest

from m2det.evaluate.metrics import coco_metrics
from m2det.evaluate.voc_metrics import voc_scores


def twin(objects, detections, points):
    """AP of one class as VOCevaldet.m and VOCap.m of the development kit have it, in their terms.

    objects: of each image a list of (x1, y1, x2, y2, difficult); detections: (image, score, x1, y1, x2, y2).
    """
    npos = sum(not o[4] for each in objects.values() for o in each)
    det = {image: [False] * len(each) for image, each in objects.items()}
    detections = sorted(detections, key=lambda d: -d[1])
    tp, fp = [0] * len(detections), [0] * len(detections)
    for d, (image, _, *bb) in enumerate(detections):
        ovmax, jmax = -np.inf, -1
        for j, bbgt in enumerate(objects.get(image, [])):
            bi = [max(bb[0], bbgt[0]), max(bb[1], bbgt[1]), min(bb[2], bbgt[2]), min(bb[3], bbgt[3])]
            iw, ih = bi[2] - bi[0] + 1, bi[3] - bi[1] + 1
            if iw > 0 and ih > 0:
                ua = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1) + (bbgt[2] - bbgt[0] + 1) * (bbgt[3] - bbgt[1] + 1)
                ov = iw * ih / (ua - iw * ih)
                if ov > ovmax:
                    ovmax, jmax = ov, j
        if ovmax >= 0.5:
            if not objects[image][jmax][4]:
                if not det[image][jmax]:
                    tp[d], det[image][jmax] = 1, True
                else:
                    fp[d] = 1
        else:
            fp[d] = 1
    tp, fp = np.cumsum(tp), np.cumsum(fp)
    rec, prec = tp / npos, tp / np.maximum(tp + fp, 1)  # nothing counted yet: 0 of 0
    if points == 11:
        return sum(max(prec[rec >= t / 10], default=0) for t in range(11)) / 11
    mrec, mpre = [0, *rec, 1], [0, *prec, 0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1])


def write(folder, objects, detections):
    """The files that the stages have: one class, ground truth and detections as xywh."""
    truth = {
        "images": [{"id": i, "width": 200, "height": 200, "file_name": f"{i}.jpg"} for i in objects],
        "annotations": [
            {
                "id": 0,
                "image_id": i,
                "category_id": 1,
                "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1],
                "area": (x2 - x1 + 1) * (y2 - y1 + 1),
                "iscrowd": 0,
                "voc_difficult": int(difficult),
            }
            for i, each in objects.items()
            for x1, y1, x2, y2, difficult in each
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "absent"}],
    }
    for number, annotation in enumerate(truth["annotations"], 1):
        annotation["id"] = number
    results = [
        {"image_id": i, "category_id": 1, "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1], "score": score}
        for i, score, x1, y1, x2, y2 in detections
    ]
    for name, content in (("truth", truth), ("results", results)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / "truth.json", folder / "results.json"


@pytest.mark.parametrize("seed", range(20))
def test_the_map_is_that_of_the_development_kit(tmp_path, seed):
    rng = np.random.default_rng(seed)

    def box(near=None):
        x, y, w, h = (
            near + rng.integers(-8, 9, 4) if near is not None else rng.integers((0, 0, 20, 20), (90, 90, 60, 60))
        )
        return np.array([x, y, max(w, 5), max(h, 5)])

    objects, detections = {}, []
    for image in range(1, 7):
        boxes = [box() for _ in range(rng.integers(0, 5))]
        boxes += [box(near) for near in boxes[:2]]  # neighbours: which one is overlapped most decides
        objects[image] = [
            (x, y, x + w - 1, y + h - 1, bool(rng.random() < 0.4)) for x, y, w, h in np.array(boxes).tolist()
        ]
        for near in [*boxes, *boxes, *[box() for _ in range(4)]]:
            x, y, w, h = box(near).tolist()
            detections.append((image, float(rng.random()), x, y, x + w - 1, y + h - 1))
    objects[1].append((5, 5, 60, 60, False))
    scores = voc_scores(*write(tmp_path, objects, detections))
    assert scores["classes"].keys() == {"dog"}, "a class without objects has no AP"
    for points, key in ((11, "AP_11_points"), (0, "AP_all_points")):
        assert scores["classes"]["dog"][key] == pytest.approx(twin(objects, detections, points), abs=1e-12)
        assert scores[f"m{key}"] == scores["classes"]["dog"][key]
    assert 0 < scores["mAP_all_points"] < 1


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_false_alarms_inside_a_difficult_object_count(tmp_path, backend):
    """As a crowd, the difficult object would hide both of them: AP50 1.00 where VOC's rule gives a third."""
    objects = {1: [(10, 10, 49, 49, False), (60, 60, 159, 159, True)]}
    right, same = (1, 0.7, 10, 10, 49, 49), [(1, 0.95, 60, 60, 159, 159), (1, 0.94, 62, 62, 159, 159)]
    alarms = [(1, 0.9, 60, 60, 79, 79), (1, 0.8, 120, 120, 139, 139)]
    files = write(tmp_path, objects, [right, *same, *alarms])
    assert coco_metrics(*files, backend)["AP50"] == pytest.approx(1 / 3)
    assert voc_scores(*files)["mAP_all_points"] == pytest.approx(1 / 3)
    files = write(tmp_path, objects, [right, *same])
    assert coco_metrics(*files, backend)["AP50"] == pytest.approx(1), "detections of the difficult object do not count"
    files = write(tmp_path, objects, [])
    assert coco_metrics(*files, backend)["AR100"] == 0 and voc_scores(*files)["mAP_11_points"] == 0


@pytest.mark.filterwarnings("error")
def test_without_any_object_that_counts_the_map_is_not_defined(tmp_path):
    scores = voc_scores(*write(tmp_path, {1: [(10, 10, 49, 49, True)]}, [(1, 0.9, 60, 60, 79, 79)]))
    assert (scores["mAP_11_points"], scores["mAP_all_points"], scores["classes"]) == (-1, -1, {})


def test_data_of_another_format_have_no_voc_map(tmp_path):
    truth, results = write(tmp_path, {1: [(10, 10, 49, 49, False)]}, [])
    content = json.loads(truth.read_text())
    content["annotations"][0].pop("voc_difficult")
    truth.write_text(json.dumps(content))
    assert voc_scores(truth, results) == {}


def test_an_overlap_of_exactly_a_half_counts_as_in_the_kit(tmp_path):
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 0, 20, 10],
                "area": 200,
                "iscrowd": 0,
                "voc_difficult": 0,
            }
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9}]
    (tmp_path / "found.json").write_text(json.dumps(found))
    assert voc_scores(tmp_path / "truth.json", tmp_path / "found.json")["mAP_all_points"] == 1
