"""The metrics are COCO's, with either scorer, in ordinary and in empty cases."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from m2det.errors import InputError
from m2det.evaluate.metrics import NAMES, coco_metrics, coco_scores

BACKENDS = ("pycocotools", "hotcoco")
WHOLE = '{"image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5], "score": 0.5}'
WRONG_ENTRIES = {
    WHOLE.replace("0.5", "NaN"): "has score nan: write a finite number, or leave the entry out",
    WHOLE.replace("0.5", "Infinity"): "has score inf: write a finite number",
    WHOLE.replace("0.5", "-Infinity"): "has score -inf: write a finite number",
    WHOLE.replace("0.5", "null"): "has score None: write a finite number",
    WHOLE.replace("0.5", '"0.5"'): "has score '0.5': write a finite number",
    WHOLE.replace("0.5", "true"): "has score True: write a finite number",
    WHOLE.replace(', "score": 0.5', ""): "has no score: each needs image_id, category_id, bbox, score; write it",
    WHOLE.replace('"bbox": [1, 1, 5, 5], ', ""): "has no bbox: each needs",
    WHOLE.replace("3", "99"): "has category_id 99, which ",
    WHOLE.replace("3", '"cat"'): "has category_id 'cat', which ",
    WHOLE.replace("3", "3.0"): "has category_id 3.0, which ",
    WHOLE.replace(": 1,", ": 99,"): "is on image 99, which ",
    WHOLE.replace(": 1,", ': "1.jpg",'): "is on image '1.jpg', which ",
    WHOLE.replace(": 1,", ": [1],"): "is on image [1], which ",
    WHOLE.replace("5, 5", "5"): "has bbox [1, 1, 5]: write four finite numbers",
    WHOLE.replace("5, 5", "5, NaN"): "has bbox [1, 1, 5, nan]: write four",
    WHOLE.replace(
        "5, 5", "5, -5"
    ): "has bbox [1, 1, 5, -5]: write four finite numbers, x, y, width and height in pixels",
    WHOLE.replace("[1, 1, 5, 5]", '{"x": 1}'): "has bbox {'x': 1}: write four",
    "[1, 3, 1, 1, 5, 5]": "is [1, 3, 1, 1, 5, 5]: each must be an object with image_id, category_id, bbox, score",
    "null": "is None: each must be an object",
}
WRONG_FILES = {
    "": "is no valid JSON (Expecting value: line 1 column 1 (char 0)); it may be truncated: detect again",
    f"[{WHOLE}, {WHOLE[:30]}": "is no valid JSON (",
    '{"images": [], "annotations": [], "categories": []}': "is an annotation file: give COCO's results, a list of",
    WHOLE: "is no list: give COCO's results, a list of objects with image_id, category_id, bbox, score",
    "null": "is no list: give COCO's results",
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_published_scores(shared, backend):
    folder = shared / "eval-oracle" / "fakebbox100"
    expected = json.loads((folder / "expected_pycocotools.json").read_text())
    truth = folder / "instances_val2014_100.json"
    metrics = coco_metrics(truth, folder / "instances_val2014_fakebbox100_results.json", backend)
    assert {name: metrics[name] for name in NAMES} == pytest.approx(expected["bbox"], abs=1e-6)
    for category in json.loads(truth.read_text())["categories"]:
        wanted = expected["bbox_per_category_AP"][str(category["id"])]
        assert metrics[f"AP/{category['name']}"] == pytest.approx(-1 if wanted is None else wanted, abs=1e-6)


@pytest.fixture
def files(tmp_path):
    """Write boxes (image, category, xywh, iscrowd) and detections (image, category, xywh, score)."""

    def write(boxes, detections):
        truth = {
            "images": [{"id": i, "width": 200, "height": 200, "file_name": f"{i}.jpg"} for i in (1, 2)],
            "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
            "annotations": [
                {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
                for n, (i, c, b, crowd) in enumerate(boxes, 1)
            ],
        }
        results = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in detections]
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        (tmp_path / "results.json").write_text(json.dumps(results))
        return tmp_path / "truth.json", tmp_path / "results.json"

    return write


@pytest.mark.parametrize("backend", BACKENDS)
class TestBothScorers:
    def test_perfect_detections(self, files, backend):
        boxes = [(1, 3, [10, 10, 50, 40], 0), (2, 3, [20, 20, 100, 120], 0)]
        metrics = coco_metrics(*files(boxes, [(i, c, b, 0.9) for i, c, b, _ in boxes]), backend)
        assert metrics["AP"] == metrics["AP50"] == metrics["AP/cat"] == pytest.approx(1.0)
        assert metrics["AP/dog"] == metrics["APs"] == -1.0

    def test_no_detections_are_ap_0(self, files, backend):
        metrics = coco_metrics(*files([(1, 3, [10, 10, 50, 40], 0)], []), backend)
        assert metrics["AP"] == metrics["AR100"] == metrics["AP/cat"] == 0.0

    def test_detections_in_a_crowd_are_neither_counted_nor_punished(self, files, backend):
        boxes = [(1, 3, [10, 10, 40, 40], 0), (1, 3, [100, 100, 90, 90], 1)]
        detections = [
            (1, 3, [10, 10, 40, 40], 0.5),
            (1, 3, [110, 110, 30, 30], 0.9),
            (1, 3, [150, 150, 30, 30], 0.9),
        ]
        assert coco_metrics(*files(boxes, detections), backend)["AP"] == pytest.approx(1.0)

    @pytest.mark.parametrize("ids", [(-2, -1, -7, -3), (-(2**63), 2**63 - 1, 0, 5), (2**62, 2**63 - 1, 1, 2**63 - 1)])
    def test_any_integer_ids(self, files, backend, ids):
        """As of exporters that number images by a hash."""
        boxes = [(1, 3, [10, 10, 50, 40], 0), (2, 7, [20, 20, 100, 120], 0), (2, 7, [150, 150, 20, 20], 0)]
        detections = [(1, 3, [10, 10, 50, 40], 0.9), (2, 7, [20, 20, 100, 120], 0.5), (1, 7, [0, 0, 9, 9], 0.6)]
        paths = files(boxes, detections)
        expected = coco_metrics(*paths, backend)
        assert 0 < expected["AP/dog"] < expected["AP/cat"]
        new = dict(zip(("1", "2", "3", "7"), ids, strict=True))  # images, then categories, in their order
        for path in paths:
            content = json.loads(path.read_text())
            for table in content.values() if isinstance(content, dict) else [content]:
                for entry in table:
                    entry |= {k: new[str(entry[k])] for k in ("image_id", "category_id") if k in entry}
                    if "file_name" in entry or "name" in entry:
                        entry["id"] = new[str(entry["id"])]
            path.write_text(json.dumps(content))
        assert coco_metrics(*paths, backend) == expected

    def test_ids_from_0_and_no_area_or_iscrowd_as_many_exports_write(self, files, backend):
        truth, results = files([(1, 3, [10, 10, 50, 40], 0)], [(1, 3, [10, 10, 50, 40], 0.9)])
        content = json.loads(truth.read_text())
        content["annotations"][0] = {"id": 0, "image_id": 1, "category_id": 3, "bbox": [10, 10, 50, 40]}
        truth.write_text(json.dumps(content))
        metrics = coco_metrics(truth, results, backend)
        assert metrics["AP"] == metrics["APm"] == pytest.approx(1.0)

    def test_detections_of_another_split_are_refused(self, files, backend):
        with pytest.raises(InputError, match="image 99"):
            coco_metrics(*files([(1, 3, [10, 10, 40, 40], 0)], [(99, 3, [1, 1, 5, 5], 0.5)]), backend)

    @pytest.mark.parametrize(("wrong", "sentence"), WRONG_ENTRIES.items())
    def test_a_wrong_entry_is_one_sentence_with_file_number_and_remedy(self, files, backend, wrong, sentence):
        truth, results = files([(1, 3, [10, 10, 40, 40], 0)], [(1, 3, [1, 1, 5, 5], 0.5)])
        good = results.read_text().strip("[]")
        results.write_text(f"[{good}, {wrong}, {good}]")
        with pytest.raises(InputError) as error:
            coco_metrics(truth, results, backend)
        assert str(error.value).startswith(f"{results}: entry 2 of 3 {sentence}")

    @pytest.mark.parametrize(("content", "sentence"), WRONG_FILES.items())
    def test_a_file_that_is_no_list_of_results_is_one_sentence(self, files, backend, content, sentence):
        truth, results = files([(1, 3, [10, 10, 40, 40], 0)], [])
        results.write_text(content)
        with pytest.raises(InputError) as error:
            coco_metrics(truth, results, backend)
        assert str(error.value).startswith(f"{results} {sentence}")

    def test_scores_of_any_finite_size_and_boxes_without_area_are_scored(self, files, backend):
        boxes = [(1, 3, [10, 10, 50, 40], 0)]
        detections = [(1, 3, [10, 10, 50, 40], 3), (1, 3, [10, 10, 0, 0], -2.5), (2, 3, [-9, -9, 900, 900], 0)]
        assert coco_metrics(*files(boxes, detections), backend)["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ap_by_class_and_size_is_the_mean_of_pycocotools_array(shared, backend):
    """Of COCO's published sample of detections, scored by pycocotools without any code of ours."""
    folder = shared / "eval-oracle" / "fakebbox100"
    truth, results = (folder / f"instances_val2014_{name}.json" for name in ("100", "fakebbox100_results"))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        run = COCOeval(coco, coco.loadRes(str(results)), "bbox")
        run.evaluate()
        run.accumulate()
    found = coco_scores(truth, results, backend).class_ap
    assert found.shape == (80, 4)
    expected = np.full((80, 4), -1.0)
    for k, size in np.ndindex(80, 4):
        values = run.eval["precision"][:, :, k, size, 2]  # 100 detections an image
        if (values > -1).any():
            expected[k, size] = values[values > -1].mean()
    assert found == pytest.approx(expected, abs=1e-9)
    assert min((expected >= 0).sum(0)) > 40, "the sample has all sizes"


def test_scorers_agree(files):
    rng = np.random.default_rng(0)

    def box():
        return [*rng.uniform(0, 100, 2).tolist(), *rng.uniform(5, 100, 2).tolist()]

    boxes = [(int(rng.integers(1, 3)), int(rng.choice([3, 7])), box(), 0) for _ in range(30)]
    detections = [(i, c, (np.array(b) + rng.normal(0, 3, 4)).tolist(), float(rng.random())) for i, c, b, _ in boxes * 2]
    paths = files(boxes, detections)
    assert coco_metrics(*paths, "hotcoco") == pytest.approx(coco_metrics(*paths, "pycocotools"), abs=1e-9)
