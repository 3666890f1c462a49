import json
from collections import Counter
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.mask import decode, frPyObjects, toBbox
from sklearn.datasets import load_digits

from m2det.data.sources import digits
from m2det.data.sources.coco import read_split

Record = dict[str, Any]
TRAINING, MINIVAL = ("train2014", "valminusminival2014"), ("minival2014",)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    digits.make_digits(root)
    return root


def load(root: Path, *names: str) -> tuple[list[Record], list[Record]]:
    contents = [json.loads((root / f"annotations/instances_{name}.json").read_text()) for name in names]
    return [i for c in contents for i in c["images"]], [a for c in contents for a in c["annotations"]]


def everything(root: Path) -> tuple[list[Record], list[Record]]:
    return load(root, *TRAINING, *MINIVAL)


def pixels(root: Path, image: Record) -> np.ndarray:
    folder = image["file_name"].split("_")[1]
    loaded = cv2.imread(str(root / "images" / folder / image["file_name"]), cv2.IMREAD_UNCHANGED)
    assert loaded is not None
    return loaded


def test_the_layout_is_coco_2014s(root: Path) -> None:
    for name, count in (
        ("train2014", 1400),
        ("valminusminival2014", 100),
        ("minival2014", 200),
        ("val2014", 300),
    ):
        images, annotations = load(root, name)
        assert len(images) == count
        folder = "train2014" if name == "train2014" else "val2014"
        for image in images:
            assert image["file_name"] == f"COCO_{folder}_{image['id']:012d}.jpg"
            assert (root / "images" / folder / image["file_name"]).is_file()
        for entry in annotations:
            x, y, w, h = entry["bbox"]
            assert entry["area"] == w * h and 0 <= x <= x + w <= 160 and 0 <= y <= y + h <= 160
    assert load(root, "val2014") == load(root, "valminusminival2014", "minival2014")
    images, annotations = everything(root)
    assert len({image["id"] for image in images}) == 1700
    assert len({entry["id"] for entry in annotations}) == len(annotations)
    assert len(list(root.rglob("*.jpg"))) == 1700

    truth = COCO(str(root / "annotations/instances_val2014.json"))
    assert [(c["id"], c["name"]) for c in truth.loadCats(truth.getCatIds())] == [
        (digit + 1, str(digit)) for digit in range(10)
    ]
    for author in ("Alpaydin", "Kaynak", "danielbuechele", "vultilion"):
        assert author in json.dumps(truth.dataset["licenses"])


def test_images_are_small_colour_jpegs_and_one_is_grey(root: Path) -> None:
    images, _ = everything(root)
    shapes = Counter(pixels(root, image).shape for image in images)
    assert shapes == {(160, 160, 3): 1699, (160, 160): 1}
    train, _ = load(root, "train2014")
    assert [image["id"] for image in train if pixels(root, image).ndim == 2] == [digits.GREY_ID]


def test_one_to_six_digits_and_a_few_images_without(root: Path) -> None:
    images, annotations = everything(root)
    per_image = Counter(entry["image_id"] for entry in annotations if not entry["iscrowd"])
    counts = Counter(per_image[image["id"]] for image in images)
    assert set(counts) == set(range(7))
    assert all(220 <= counts[n] <= 340 for n in range(1, 7))
    for names, share in ((TRAINING, 30), (MINIVAL, 4)):
        assert sum(per_image[image["id"]] == 0 for image in load(root, *names)[0]) == share
    classes = Counter(entry["category_id"] for entry in annotations)
    assert set(classes) == set(range(1, 11)) and min(classes.values()) > 450


def test_sides_are_log_uniform(root: Path) -> None:
    for names, tolerance in ((TRAINING, 0.03), (MINIVAL, 0.06)):
        _, annotations = load(root, *names)
        sides = np.sort([max(entry["bbox"][2:]) / 160 for entry in annotations if not entry["iscrowd"]])
        assert sides[0] >= 0.18 and sides[-1] <= 0.50
        drawn = np.log(sides / 0.18) / np.log(0.50 / 0.18)
        assert np.abs(drawn - np.linspace(0, 1, len(drawn))).max() < tolerance


def test_boxes_overlap_little(root: Path) -> None:
    _, annotations = everything(root)
    boxes: dict[int, list[list[int]]] = {}
    for entry in annotations:
        boxes.setdefault(entry["image_id"], []).append(entry["bbox"])
    shares = []
    for of_one in boxes.values():
        for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(of_one, 2):
            w, h = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
            shares.append(max(0, w) * max(0, h) / min(aw * ah, bw * bh))
    assert max(shares) <= 0.2
    assert max(shares) > 0.15  # it does happen


def test_boxes_contain_their_digits_in_contrasting_ink(root: Path) -> None:
    images, annotations = everything(root)
    of_id = {image["id"]: image for image in images}
    per_image = Counter(entry["image_id"] for entry in annotations)
    handwritten = load_digits()
    seen = 0
    for entry in annotations:
        canvas = pixels(root, of_id[entry["image_id"]])
        if per_image[entry["image_id"]] > 1 or canvas.ndim == 2:
            continue  # others may lie over this one
        [sample], [degrees], (x, y, w, h) = entry["samples"], entry["degrees"], entry["bbox"]
        assert handwritten.target[sample] == entry["category_id"] - 1
        alpha = digits._alpha(handwritten.images[sample].astype(np.float32) * (255 / 16), degrees, max(w, h)) / 255
        assert alpha.shape == (h, w)
        # a pixel is ground (1 - alpha) + ink alpha: on flat ground, both colours follow by least squares
        patch = canvas[y : y + h, x : x + w].reshape(-1, 3).astype(np.float64)
        mix = np.stack([1 - alpha.ravel(), alpha.ravel()], 1)
        (ground, ink), *_ = np.linalg.lstsq(mix, patch)
        if (patch - mix @ [ground, ink]).std() < 8:
            seen += 1
            dark = ground @ [0.114, 0.587, 0.299] < 128
            low, high = (195, 255) if dark else (0, 60)
            assert (ink > low - 12).all() and (ink < high + 12).all()
    assert seen >= 50


def test_digits_are_turned_within_15_degrees(root: Path) -> None:
    _, annotations = everything(root)
    turns = np.sort([entry["degrees"][0] for entry in annotations if not entry["iscrowd"]])
    assert np.abs(turns).max() <= 15
    assert np.abs(turns - np.linspace(-15, 15, len(turns))).max() < 0.6  # uniform

    bar = np.zeros((8, 8), np.float32)
    bar[:, 3:5] = 255
    for degrees in (-15, 0, 10):
        alpha = digits._alpha(bar, degrees, 80)
        y, x = np.nonzero(alpha > 128)
        slope = np.polyfit(y, x, 1)[0]
        assert abs(np.degrees(np.arctan(slope)) - degrees) < 1


def test_minival_shares_no_digits_and_photo_regions_with_training(root: Path) -> None:
    used: list[set[int]] = []
    columns: list[dict[str, tuple[int, int]]] = []
    for names in (TRAINING, MINIVAL):
        images, annotations = load(root, *names)
        used.append({sample for entry in annotations for sample in entry["samples"]})
        columns.append({})
        for photo in digits.PHOTOS:
            crops = [image["crop"] for image in images if image["photo"] == photo]
            columns[-1][photo] = min(x for x, *_ in crops), max(x + side for x, _, side, _ in crops)
    assert max(used[0]) < 1400 <= min(used[1]) and max(used[1]) == 1796
    assert len(used[0]) > 1300 and len(used[1]) > 300
    for photo in digits.PHOTOS:
        assert columns[0][photo][1] <= columns[1][photo][0]


def test_backgrounds_are_the_crops_in_the_annotations(root: Path) -> None:
    images, annotations = everything(root)
    occupied = {entry["image_id"] for entry in annotations}
    for image in images:
        if image["id"] not in occupied:
            x, y, side, _ = image["crop"]
            photo = cv2.imread(str(files("sklearn.datasets.images") / image["photo"]))
            assert photo is not None
            crop = cv2.resize(photo[y : y + side, x : x + side], (160, 160))
            shown = pixels(root, image)
            likeness = [np.corrcoef(shown.ravel(), c.ravel())[0, 1] for c in (crop, crop[:, ::-1])]
            assert max(likeness) > 0.98


def test_the_crowd_region_is_one_in_minival(root: Path) -> None:
    _, annotations = everything(root)
    [crowd] = [entry for entry in annotations if entry["iscrowd"]]
    assert crowd in load(root, *MINIVAL)[1] and len(crowd["samples"]) == 16
    mask = frPyObjects(crowd["segmentation"], 160, 160)
    assert toBbox(mask).tolist() == crowd["bbox"] and decode(mask).sum() == crowd["area"]
    split = read_split([(root / "annotations/instances_minival2014.json", root / "images/val2014")])
    [record] = [record for record in split.records if record.iscrowd.any()]
    assert record.image_id == crowd["image_id"] and 2 <= len(record.boxes) <= 7


def test_no_box_is_lost_or_clipped_by_cleaning(root: Path) -> None:
    split = read_split([(root / "annotations/instances_train2014.json", root / "images/train2014")])
    assert split.clipped == sum(split.dropped.values()) == 0
    assert sum(len(record.boxes) for record in split.records) == len(load(root, "train2014")[1])


def test_a_seed_gives_the_same_bytes_and_another_gives_others(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tuple(part._replace(image_ids=part.image_ids[:20]) for part in digits.PARTS)
    monkeypatch.setattr(digits, "PARTS", few)
    made = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        digits.make_digits(tmp_path / name, seed)
        of_one = sorted((tmp_path / name).rglob("*.j*"))
        made[name] = {path.relative_to(tmp_path / name): path.read_bytes() for path in of_one}
    assert len(made["first"]) == 60 + 4 and made["first"] == made["again"]
    assert made["first"].keys() == made["other"].keys()
    assert all(made["first"][path] != made["other"][path] for path in made["first"])
    # an image depends on the seed and its id alone
    for path, data in made["first"].items():
        if path.suffix == ".jpg":
            assert (root / path).read_bytes() == data
