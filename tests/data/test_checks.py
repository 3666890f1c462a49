"""What `m2det data check` doubts: each kind in data made with it, and nothing in data without a fault."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from m2det.cli.main import main
from m2det.config import EvaluateParams
from m2det.data.anchors import propose_sizes
from m2det.data.checks.boxes import ap_limit
from m2det.data.checks.files import find_images
from m2det.data.checks.run import check_annotations
from m2det.data.checks.splits import check_splits
from m2det.data.findings import CODES
from m2det.data.sources.coco import read_splits
from m2det.evaluate.metrics import coco_metrics
from m2det.model import prior_boxes
from m2det.model.config import get_config
from tests.conftest import ROOT
from tests.data.photos import oriented_set, photo, write_set

SETTINGS = EvaluateParams(
    split="val", batch_size=1, nms="linear", score_threshold=0.1, nms_iou=0.3, per_class=100, per_image=0, scorer="auto"
)


def plain_boxes(images: int = 20, each: int = 3, size: tuple[int, int] = (640, 480), seed: int = 0) -> list[dict]:
    """Boxes well inside their images, as a tool draws them."""
    rng, boxes = np.random.default_rng(seed), []
    for i in range(images * each):
        w, h = rng.integers(20, 200, 2).tolist()
        x, y = int(rng.integers(0, size[0] - w)), int(rng.integers(0, size[1] - h))
        boxes.append({"image_id": i // each, "category_id": 1 + i % 2, "bbox": [x, y, w, h], "area": w * h})
    return boxes


def findings(tmp_path, boxes, name="train", categories=None, settings=SETTINGS, size=(640, 480), val=None):
    """Of annotations alone: codes and findings."""
    splits = {}
    for split, entries in {name: boxes, **({"val": val} if val is not None else {})}.items():
        ids = sorted({box["image_id"] for box in entries} | {0})
        images = [{"id": i, "file_name": f"{i}.jpg", "width": size[0], "height": size[1]} for i in ids]
        splits[split] = [(write_set(tmp_path / split, images, entries, categories), tmp_path / split)]
    found = list(check_annotations(read_splits(splits), settings))
    return {finding.code: finding for finding in found if finding.severity != "info"}


def changed(boxes, change) -> list[dict]:
    return [{**box, "bbox": [float(v) for v in change(*box["bbox"])]} for box in boxes]


def test_plain_boxes_are_not_doubted(tmp_path):
    assert findings(tmp_path, plain_boxes()) == {}
    sloppy = changed(plain_boxes(), lambda x, y, w, h: (x - 1.5, y - 0.5, w + 3, h))
    assert findings(tmp_path, sloppy) == {}


@pytest.mark.parametrize(
    ("code", "change", "words"),
    [
        ("corner-boxes", lambda x, y, w, h: (x, y, x + w, y + h), "look like x1 y1 x2 y2"),
        ("center-boxes", lambda x, y, w, h: (x + w / 2, y + h / 2, w, h), "look centre-based"),
        ("normalized-boxes", lambda x, y, w, h: (x / 640, y / 480, w / 640, h / 480), "fractions of the image"),
        ("over-edge", lambda x, y, w, h: (2 * x, 2 * y, 2 * w, 2 * h), "for images of another size"),
    ],
)
def test_boxes_in_another_form_are_named_with_the_numbers(tmp_path, code, change, words):
    found = findings(tmp_path, changed(plain_boxes(), change))
    assert words in found[code].message and "60" in found[code].message
    assert not {"corner-boxes", "center-boxes", "normalized-boxes", "over-edge"} - {code} & found.keys()


def test_areas_of_another_form_and_repeated_boxes(tmp_path):
    boxes = plain_boxes()
    assert findings(tmp_path, [*boxes, *boxes[:4]])["repeated-boxes"].count == 4
    other_class = [{**boxes[0], "category_id": 3 - boxes[0]["category_id"]}]
    assert findings(tmp_path, boxes + other_class) == {}
    areas = [{**box, "area": 4 * box["area"]} for box in boxes]
    assert findings(tmp_path, areas)["area-above-box"].count == 60


@pytest.mark.parametrize(("per_class", "ap"), [(50, 0.42), (100, 0.83), (1000, 0.83)])
def test_the_ap_that_a_limit_leaves_is_the_scorers(tmp_path, per_class, ap):
    """120 objects of a class in an image, and a perfect network."""
    boxes = [
        {"image_id": 0, "category_id": 1, "bbox": [40 * (i % 15), 40 * (i // 15), 20, 20], "area": 400}
        for i in range(120)
    ]
    found = findings(tmp_path, boxes, settings=SETTINGS.model_copy(update={"per_class": per_class}))["crowded"]
    assert f"AP of that class cannot exceed {ap:.2f}" in found.message and "120 boxes of one class" in found.message
    results = [
        {"image_id": 0, "category_id": 1, "bbox": box["bbox"], "score": 1 - i / 1000}
        for i, box in enumerate(boxes[:per_class])
    ]
    (tmp_path / "r.json").write_text(json.dumps(results))
    measured = coco_metrics(tmp_path / "train.json", tmp_path / "r.json")["AP"]
    assert measured == pytest.approx(ap_limit(min(per_class, 100) / 120), abs=1e-6) and round(measured, 2) == ap
    assert "crowded" not in findings(tmp_path, boxes[:100])


def test_classes_are_told_by_name(tmp_path):
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}]
    val = [{**box, "category_id": 3} for box in plain_boxes(3)]
    found = findings(tmp_path, plain_boxes(), categories=names, val=val)
    assert '"cow"' in found["class-without-box"].message and '"cow"' in found["class-only-in-val"].message
    assert found["class-only-in-val"].split == "val"
    found = findings(tmp_path, plain_boxes(), val=[])
    assert "AP cannot be measured" in found["val-without-box"].message
    assert findings(tmp_path, [], val=plain_boxes())["no-box"].severity == "error"


def test_a_category_that_only_groups_the_others_is_left_out(tmp_path):
    names = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    images = [{"id": 0, "file_name": "0.jpg", "width": 640, "height": 480}]
    entries = [{**box, "image_id": 0} for box in plain_boxes(1)]
    path = write_set(tmp_path / "train", images, entries, names)
    split = read_splits({"train": [(path, tmp_path / "train")]})["train"]
    assert [category.name for category in split.categories] == ["cat", "dog"]
    assert split.records[0].labels.tolist() == [1, 2, 1]
    assert 'class "pets" has no box: it is only the supercategory of cat, dog' in split.notes[0].text
    path = write_set(tmp_path / "train", images, [*entries, {**entries[0], "category_id": 0}], names)
    split = read_splits({"train": [(path, tmp_path / "train")]})["train"]
    assert [category.name for category in split.categories] == ["pets", "cat", "dog"], "it has a box"


def check(path, *words, capsys) -> tuple[int, dict[str, dict]]:
    code = main(["data", "check", "--annotations", str(path), "--images", str(path.with_suffix("")), "--json", *words])
    found = json.loads(capsys.readouterr().out)["findings"]
    assert all(finding["code"] in CODES and finding["severity"] == CODES[finding["code"]][0] for finding in found)
    return code, {finding["code"]: finding for finding in found}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_exit_codes_guard_a_repository_of_data(here, capsys):
    clean = oriented_set(here / "clean", 6)
    code, found = check(clean, "--strict", capsys=capsys)
    assert code == 0 and found["oriented"]["count"] == 3
    assert "stored 120x160 and turned by EXIF orientation 6 to the 160x120" in found["oriented"]["message"]
    doubtful = oriented_set(here / "doubtful", 6, stored_size=True)
    code, found = check(doubtful, capsys=capsys)
    assert code == 0 and "set data.orientation: exif" in found["orientation-stored"]["message"]
    assert check(doubtful, "--strict", capsys=capsys)[0] == 1
    code, found = check(oriented_set(here / "unclear", 3), capsys=capsys)
    assert code == 2 and "3 of 3 images carry EXIF orientation 3" in found["orientation-unclear"]["message"]
    (here / "clean.json").write_text("{")
    code, found = check(clean, capsys=capsys)
    assert code == 2 and "no valid JSON" in found["unreadable"]["message"]


def test_all_bad_images_are_listed_and_the_others_drawn(here, capsys):
    path = oriented_set(here / "a", 1, count=6)
    (here / "a/1.jpg").unlink()
    (here / "a/2.jpg").write_bytes((here / "a/2.jpg").read_bytes()[:-100])
    (here / "a/3.jpg").write_bytes(b"404")
    code, found = check(path, "--out", "sheet.png", capsys=capsys)
    assert code == 2 and found["missing-images"]["examples"] == [str(here / "a/1.jpg")]
    assert [text.split(")")[1][:4] for text in found["bad-images"]["examples"]] == [" is ", " can"]
    assert (here / "sheet.png").stat().st_size > 1000
    main(["data", "check", "--annotations", "a.json", "--images", "a"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("a/1.jpg", "a/2.jpg", "a/3.jpg", "picture: annotated.png", "fits: "))
    params = (ROOT / "params.yaml").read_text().replace("on_bad_image: stop", "on_bad_image: skip")
    (here / "params.yaml").write_text(params)
    code, found = check(path, capsys=capsys)
    assert code == 0 and found["skipped-images"]["severity"] == "warning"


def test_a_folder_of_bad_images_alone_still_gets_its_table_and_picture(here, capsys):
    path = oriented_set(here / "a", 1)
    for image in (here / "a").iterdir():
        image.write_bytes(b"")
    assert main(["data", "check", "--annotations", str(path), "--images", "a"]) == 2
    assert "3 images, 3 boxes" in capsys.readouterr().out and (here / "annotated.png").exists()


def test_repeated_shared_and_unnamed_images(here, capsys):
    def image(number, name, data=None):
        return {"id": number, "file_name": name, "width": 160, "height": 120, "data": data}

    photos = [photo((10 + 9 * i, 20, 60, 30), 1) for i in range(4)]
    images = [image(1, "a.jpg", photos[0]), image(2, "b.jpg", photos[1]), image(3, "copy of a.jpg", photos[0])]
    boxes = [{"image_id": i, "category_id": 1 + i % 2, "bbox": [10, 20, 60, 30], "area": 1800} for i in (1, 2, 3)]
    train = write_set(here / "train", [*images, image(4, "a.jpg")], boxes)
    (here / "train/extra.png").write_bytes(photo((0, 0, 5, 5), 1, "PNG"))
    code, found = check(train, capsys=capsys)
    assert code == 0 and found["image-repeated"]["count"] == 2 and found["unnamed-images"]["count"] == 1
    write_set(here / "val", [image(7, "other name.jpg", photos[1]), image(8, "c.jpg", photos[2])], boxes[:0])
    splits = read_splits({"train": [(train, here / "train")], "val": [(here / "val.json", here / "val")]})
    sizes = {path: size for split in splits.values() for path, size in find_images(split).sizes.items()}
    both = next(finding for finding in check_splits(splits, sizes) if finding.code == "image-in-both")
    assert both.count == 1 and "other name.jpg" in both.examples[0] and "b.jpg of train" in both.examples[0]


def test_pixels_that_use_a_small_part_of_their_range(here, capsys):
    images = []
    for i in range(4):
        dark = np.random.default_rng(i).integers(0, 16, (60, 80)).astype(np.uint16) * 256  # 12 bits in 16
        data = cv2.imencode(".png", dark)[1].tobytes()
        images.append({"id": i, "file_name": f"{i}.png", "width": 80, "height": 60, "data": data})
    boxes = [{"image_id": i, "category_id": 1 + i % 2, "bbox": [10, 10, 40, 30], "area": 1200} for i in range(4)]
    _, found = check(write_set(here / "a", images, boxes), capsys=capsys)
    assert "0 to 15 of 0 to 255" in found["narrow-range"]["message"]


def test_where_no_model_fits_the_check_says_why_and_what_to_do(here, capsys):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 4000, "height": 3000} for i in range(4)]
    boxes = [{"image_id": i, "category_id": 1 + i % 2, "bbox": [500 * i, 300, 16, 16], "area": 256} for i in range(4)]
    path = write_set(here / "a", images, boxes)
    code, found = check(path, capsys=capsys)
    assert "3x4 px in the largest input (800 px)" in found["no-model-fits"]["message"] and code == 2
    assert "cut the images into tiles" in found["no-model-fits"]["message"]
    main(["data", "check", "--annotations", "a.json", "--images", "a"])
    assert "\nfits: " not in capsys.readouterr().out


def test_anchors_gain_what_they_say(here, capsys):
    """Boxes of 5 % of the side and smaller, which the model's own sizes do not match."""
    rng, images, boxes = np.random.default_rng(0), [], []
    for i in range(10):
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 1000, "height": 1000})
        for _ in range(10):
            w, h = rng.uniform(18, 50, 2)
            x, y = rng.uniform(0, 940, 2)
            box = [round(float(v), 2) for v in (x, y, w, h)]
            boxes.append({"image_id": i, "category_id": 1 + i % 2, "bbox": box, "area": w * h})
    path = write_set(here / "a", images, boxes)
    split = read_splits({"train": [(path, here / "a")]})["train"]
    config = get_config("m2det320-vgg16")
    proposal = propose_sizes(split, config)
    proposed = replace(config, sizes=proposal.sizes)  # as model.overrides would
    best = best_overlaps(split, prior_boxes(proposed).numpy().astype(float))
    assert proposal.after == pytest.approx((best >= 0.5).mean(), abs=0.005)
    own = best_overlaps(split, prior_boxes(config).numpy().astype(float))
    assert proposal.before == pytest.approx((own >= 0.5).mean(), abs=0.005)
    assert proposal.after > proposal.before + 0.15
    assert (
        main(["data", "anchors", "--annotations", str(path), "--images", str(here / "a"), "--model", config.name]) == 0
    )
    out = capsys.readouterr().out
    assert f"  overrides: {{sizes: [{', '.join(f'{size:g}' for size in proposal.sizes)}]}}" in out


def best_overlaps(split, priors) -> np.ndarray:
    """By plain NumPy: each box's best IoU with a prior."""
    low, high = priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2
    best = []
    for box in np.concatenate([record.boxes / ([record.width, record.height] * 2) for record in split.records]):
        shared = (np.minimum(high, box[2:]) - np.maximum(low, box[:2])).clip(0).prod(1)
        best.append((shared / ((box[2:] - box[:2]).prod() + priors[:, 2:].prod(1) - shared)).max())
    return np.array(best)


def test_the_documentation_lists_every_code():
    text = (ROOT / "docs/data.md").read_text()
    for code, (severity, meaning) in CODES.items():
        assert code == "note" or f"| `{code}` | {severity} | {meaning} |" in text, code


def test_corner_boxes_that_lie_inside_are_told_by_their_areas(tmp_path):
    boxes = [
        {**box, "bbox": [x / 4, y / 4, (x + w) / 4, (y + h) / 4], "area": w * h / 16}
        for box in plain_boxes()
        for x, y, w, h in [box["bbox"]]
    ]
    found = findings(tmp_path, boxes)
    assert "the area of" in found["corner-boxes"].message and "as x1 y1 x2 y2" in found["corner-boxes"].message
    right = changed(plain_boxes(), lambda x, y, w, h: (x / 4, y / 4, w / 4, h / 4))
    assert "corner-boxes" not in findings(tmp_path / "right", [{**b, "area": b["area"] / 16} for b in right])


def test_more_objects_than_evaluation_keeps_of_an_image_are_told(tmp_path):
    boxes = plain_boxes(images=2, each=120)
    found = findings(tmp_path, boxes, settings=SETTINGS.model_copy(update={"per_image": 100}))
    assert "120 boxes of all classes in an image, 2 times more than evaluate.per_image 100" in found["crowded"].message
    assert "crowded" not in findings(tmp_path / "all", boxes)


def test_a_picture_that_cannot_be_written_is_no_warning(here, capsys):
    photos = oriented_set(here / "b", 1)
    (here / "folder.png").mkdir()
    words = ["data", "check", "--annotations", str(photos), "--images", str(here / "b"), "--out", "folder.png"]
    assert main(words) == 2
    assert "folder.png" in capsys.readouterr().err
