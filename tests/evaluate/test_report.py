"""The report page: whole in one file, safe whatever the names in the data, the same for equal evaluations."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.evaluate import report_errors
from m2det.evaluate.error_kinds import KINDS, match_detections
from m2det.evaluate.metrics import NAMES
from m2det.evaluate.published import COCO_IDS, ENDS
from m2det.evaluate.report import Evaluated, make_report
from m2det.evaluate.report_published import describe_published
from m2det.evaluate.report_unlabelled import draw_unlabelled, images_with_most, make_unlabelled_report
from m2det.evaluate.thresholds import confusion_matrix, confusions
from m2det.viz.labels import write_labels
from m2det.viz.page import Html

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src="https://example.com/x.png" onerror="a()">',
    "a&b\u202e\x1b[2J",
    "$x_{",
]
MAX_BYTES = 10_000_000
SPEED = {
    **{"img_per_s": 42.11, "images": 6, "seconds": 0.14, "processes": 2, "batch_size": 32, "precision": "float32"},
    **{"device": "cpu", "device_name": "<b>chip", "threads": 1, "load_average": 1.5, "torch": "2.13.0"},
}


def small_split(folder, classes, count=6, size=(120, 90)):
    """A packed split of pictures of noise, one with a hostile name, each with an object of the next class."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    noise = [
        cv2.imencode(".jpg", rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8))[1] for _ in range(min(count, 6))
    ]
    for i in range(count):
        name = '"><b onclick=x>.jpg' if i == 0 else f"{i}.jpg"
        (folder / "images" / name).write_bytes(noise[i % 2].tobytes())
        images.append({"id": i + 1, "file_name": name, "width": size[0], "height": size[1]})
        box = [10 + i, 10, 40, 50]
        annotations.append({"id": i, "image_id": i + 1, "category_id": i % len(classes) + 1, "bbox": box, "area": 2000})
    categories = [{"id": n, "name": name} for n, name in enumerate(classes, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(content))
    split, cache = read_split([(folder / "a.json", folder / "images")]), folder / "cache"
    cache.mkdir()
    finish_cache(cache, split.categories, {name: write_split(cache, name, split) for name in ("train", "val")})
    return PackedSplit(cache, "val")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    split = small_split(tmp_path_factory.mktemp("data"), HOSTILE)
    results = []
    for index, image_id in enumerate(split.image_ids.tolist()):
        label = index % 4 + 1 if index else 3  # found with its own class on the first image alone
        results.append({"image_id": image_id, "category_id": label % 3 + 1, "bbox": [10, 10, 41, 50], "score": 0.8})
    card = {"model": "<i>tiny</i>", "overrides": {"x": "<u>"}, "hashes": {"cache": "0" * 64}, "params": {"<b>": "'\"<"}}
    record = {"scorer": "<scorer>", "sha256": {"model": "1" * 64}}
    truth = json.loads(split.ground_truth.read_text())
    return Evaluated(
        card=card,
        record=record,
        metrics=dict.fromkeys(NAMES, 0.25) | {"APs": -1.0},
        class_ap=np.array([[0.5, -1, 0.75, 0.125], [0.25] * 4, [0.0] * 4, [-1.0] * 4]),
        speed=SPEED,
        voc={},
        truth=truth,
        matches=match_detections(truth, results),
        split=split,
    )


def written(evaluated, folder):
    """The page, beside figures that are drawn before it."""
    folder.mkdir(exist_ok=True)
    for name in ("learning_curve", "precision_recall", "labels"):
        if not (folder / f"{name}.png").exists():
            cv2.imwrite(str(folder / f"{name}.png"), np.zeros((20, 30, 3), np.uint8))
    return make_report(evaluated, folder)


@pytest.fixture(scope="module")
def pages(evaluated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return [written(evaluated, folder / name) for name in ("one", "two")]


class Reader(HTMLParser):
    """Collects the tags with their attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_equal_evaluations_give_equal_pages(pages):
    assert pages[0] == pages[1]


def test_it_asks_for_nothing(pages):
    tags = Reader(pages[0]).tags
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "iframe", "object", "base", "form", "a", "i", "u"})
    sources = [attrs["src"] for _, attrs in tags if "src" in attrs]
    assert len(sources) > 10 and all(re.match(r"data:image/(png|jpeg);base64,", source) for source in sources)
    allowed = {"alt", "charset", "class", "content", "http-equiv", "lang", "name", "src", "style"}
    assert {name for _, attrs in tags for name in attrs} <= allowed
    [style] = re.findall("<style>(.*?)</style>", pages[0], re.DOTALL)
    assert "url(" not in style and "@import" not in style
    policy = next(attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_text_from_files_is_no_markup(pages):
    page = Reader(pages[0])
    assert not re.search('<script|<i>|<u>|<scorer>|onerror="|\u202e|\x1b', pages[0])
    for shown in ("\\x3cscript\\x3ealert(1)", "\\x3ci\\x3etiny", "\\x3cscorer\\x3e", "onclick=x", "$x_{"):
        assert shown in page.text, shown
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def text_of(page):
    """The page's text; a tag is a space."""
    return " ".join(Reader(re.sub("(<[^>]*>)", r" \1", page)).text.split())


def test_it_says_why_the_model_fails(pages):
    text = text_of(pages[0])
    assert "The most costly kind is classification: the right box with the wrong class." in text
    assert "AP of small boxes is -1, not defined" in text and "m2det detect --score 0.80" in text
    for word in ("classification x 1. Image 2", "Where the model came from", "0" * 64, "1" * 64):
        assert word in text, word
    counts = [f"{kind} x " in text for kind in KINDS]
    assert counts == [True, False, False, False, False, False], "the kinds that there are have images"


def test_sizes_and_classes_have_their_ap(pages):
    text = text_of(pages[0])
    assert "small up to 32 x 32 px not defined 0.250 0 medium from 32 x 32 px on 0.250 0.250 6 large" in text
    assert "onerror" in text and "\\x3cscript\\x3ealert(1)\\x3c/script\\x3e 0.500 - 0.750 0.125 2 " in text


def test_the_matrix_of_many_classes_is_that_of_the_most_frequent(tmp_path, monkeypatch):
    """Of 150 classes the last 100 have two objects each; the first 50 have one and are left out."""
    ids = [*range(150), *range(50, 150)]
    annotations = [{"image_id": n, "category_id": c, "bbox": [5, 5, 40, 30]} for n, c in enumerate(ids)]
    results = [a | {"category_id": a["category_id"] // 7 * 7, "score": 0.9} for a in annotations[::2]]
    truth = {"annotations": annotations, "categories": [{"id": c, "name": f"class {c}"} for c in range(150)]}
    matches, drawn = match_detections(truth, results), []
    monkeypatch.setattr(report_errors, "draw_confusions", lambda _, *rest: drawn.extend(rest))
    monkeypatch.setattr(report_errors, "figure_of", lambda *_, **__: Html("the figure"))
    text = text_of("".join(report_errors.describe_confusions(matches, 0.5, tmp_path)))
    assert "The matrix is of the 100 of 150 classes with the most objects. the figure" in text
    whole, kept = confusion_matrix(confusions(matches, 0.5), 150), [*range(50, 150), 150]
    matrix, names = drawn
    assert (matrix == whole[np.ix_(kept, kept)]).all() and matrix.sum() > 100
    assert names == [f"class {c}" for c in range(50, 150)]


def test_published_scores_stand_beside_those_of_a_model_of_the_paper(evaluated, monkeypatch):
    """On COCO's 80 classes, here with fewer images than it takes."""
    arguments = ({"model": "m2det512-vgg16", "overrides": {}}, evaluated.metrics, SPEED, evaluated.split)
    assert describe_published(*arguments) == []
    monkeypatch.setattr(evaluated.split, "category_ids", COCO_IDS)
    monkeypatch.setattr(evaluated.split, "classes", [ENDS[0], *["x"] * 78, ENDS[1]])
    for module in ("published", "report_published"):
        monkeypatch.setattr(f"m2det.evaluate.{module}.MINIVAL", 6)
    [(title, parts)] = describe_published(*arguments)
    text = text_of("".join(parts))
    assert title == "Beside published scores" and "The images are as many as those of minival2014" in text
    assert "this model 0.250 0.250 0.250 not defined 0.250 0.250 6 images 42.11, \\x3cb\\x3echip" in text
    assert "0.304 - - - - - minival2014, 5,000 images" in text and "Ascend ModelZoo" in text


def test_the_speed_is_said_with_what_it_was_measured_on(pages):
    text = text_of(pages[0])
    assert "42.11 images per second: 6 images in 0.14 s" in text
    assert "float32, batches of 32, 2 processes, each with \\x3cb\\x3echip, torch 2.13.0." in text
    assert "The machine's load average of the minute before: 1.5" in text


def test_a_model_without_detections_has_a_page(evaluated, tmp_path):
    truth = json.loads(evaluated.split.ground_truth.read_text())
    nothing = match_detections(truth, [])
    text = text_of(written(replace(evaluated, matches=nothing), tmp_path / "pictures"))
    for words in (
        "No detection is right",
        "none detected",
        "missed x 1. Image 1",
        "0.000 F1, with",
        "not defined precision there",
    ):
        assert words in text, words


def test_without_objects_nothing_is_given_a_number(evaluated, tmp_path):
    """Of crowds alone recall would be 0 and AP50 -1, which are no measurements."""
    truth = json.loads(evaluated.split.ground_truth.read_text())
    truth["annotations"] = [entry | {"iscrowd": 1} for entry in truth["annotations"]]
    results = [{"image_id": 2, "category_id": 1, "bbox": [80, 60, 30, 30], "score": 0.9}]
    empty = replace(
        evaluated, truth=truth, matches=match_detections(truth, results), metrics=dict.fromkeys(NAMES, -1.0)
    )
    text = text_of(written(empty, tmp_path / "pictures"))
    assert "AP and all other metrics are -1, not defined: no image has an annotated box" in text
    for words in ("not defined AP, mean", "not defined F1, with", "0.000 precision", "not defined recall there"):
        assert words in text, words
    assert "Without any object AP50 is not defined" in text and "AP50 lost" not in text and "-1.000" not in text
    assert "background x 1. Image 2" in text and "4 classes without objects here" in text


def test_without_ground_truth_nothing_is_right_or_wrong(evaluated, tmp_path):
    """COCO's test images: detections, the speed and the origin are all that is known."""
    box = {"category_id": 1, "bbox": [9, 9, 30, 30]}
    results = [box | {"image_id": image, "score": s} for image, s in ((2, 0.9), (2, 0.6), (3, 0.8), (3, 0.4), (4, 0.3))]
    e, pictures = evaluated, tmp_path / "pictures"
    written(e, pictures)  # for the figures that are drawn before
    shown = images_with_most(e.split, results)
    draw_unlabelled(e.split, shown, "m2det on 6 images", pictures)
    page = make_unlabelled_report(e.card, e.record, e.speed, e.split, shown, len(results), pictures)
    text = text_of(page)
    for words in ("5 detections on 6 images", "no score is known", "42.11 images per second", "0" * 64, "1" * 64):
        assert words in text, words
    first, second, third = re.findall("image ([0-9]).{0,20}: ([0-9]) detections from score 0.5 on", text)[:3]
    assert (first, second, third[1]) == (("2", "2"), ("3", "1"), "0")
    for words in ("wrong", "background x", "F1", "precision", "Beside published", "green"):
        assert words not in text, words
    assert not re.search("<script|<i>|<u>|<scorer>|onclick=x>", page)


@pytest.mark.slow
def test_a_browser_shows_it_on_a_laptop_and_a_phone(evaluated, tmp_path):
    """Nothing is wider than the window, which is a frame, since a browser's own window has a least width."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium on this machine")
    page = written(evaluated, tmp_path / "pictures")
    probe = "<script>onload = () => parent.postMessage(document.documentElement.scrollWidth, '*')</script>"
    page = re.sub("<meta http-equiv[^>]*>", "", page).replace("</body>", probe + "</body>")
    (tmp_path / "report.html").write_text(page)
    frame = '<script>onmessage = e => document.body.append("width " + e.data)</script>'
    for width in (390, 1280):
        shown = f'{frame}<iframe src="report.html" style="width: {width}px; height: 3000px; border: 0"></iframe>'
        (tmp_path / "frame.html").write_text(f"<body>{shown}</body>")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "frame.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert int(re.findall("width ([0-9]+)", done.stdout)[-1]) <= width


@pytest.mark.slow
def test_large_photographs_and_many_classes_stay_below_10_mb(tmp_path):
    """Of noise, which no encoding makes small, with errors of every kind."""
    names = [f"{n} " + "<&\"'>" * 30 for n in range(80)]
    split = small_split(tmp_path, names, count=30, size=(1600, 1200))
    boxes = [(0, 10, 40, 50), (1, 10, 40, 50), (0, 35, 40, 50), (1, 35, 40, 50), (0, 11, 40, 50), (2, 800, 500, 400)]
    results = [
        {"image_id": n, "category_id": (n - 1 + label) % 80 + 1, "bbox": [x + n - 1, 10, w, h], "score": 0.8}
        for n in range(1, 31)
        for label, x, w, h in boxes
        if n > 2 or label > 1  # the first two images have nothing near their object
    ]
    truth = json.loads(split.ground_truth.read_text())
    card = {"model": "m2det-tiny", "overrides": {}, "hashes": {}}
    metrics = dict.fromkeys(NAMES, 0.5)
    record = {"scorer": "hotcoco", "sha256": {}}
    matches = match_detections(truth, results)
    many = Evaluated(card, record, metrics, np.full((80, 4), 0.5), SPEED, {}, truth, matches, split)
    (tmp_path / "pictures").mkdir()
    write_labels(tmp_path / "labels.csv", tmp_path / "pictures" / "labels.png", [split, split], [0.1])
    page = written(many, tmp_path / "pictures")
    assert all(f"{kind} x " in page for kind in KINDS), "the most photographs that a page has"
    assert len(page.encode()) < MAX_BYTES
