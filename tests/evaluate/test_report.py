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
from m2det.evaluate.error_kinds import match_detections
from m2det.evaluate.metrics import NAMES
from m2det.evaluate.report import Evaluated, make_report
from m2det.viz.detections import review

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src="https://example.com/x.png" onerror="a()">',
    "a&b\u202e\x1b[2J",
    "$x_{",
]
MAX_BYTES = 10_000_000


def small_split(folder, classes):
    """A packed split of six pictures, one with a hostile name, each with an object of the next class."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(6):
        name = '"><b onclick=x>.jpg' if i == 0 else f"{i}.jpg"
        _, data = cv2.imencode(".jpg", rng.integers(0, 255, (90, 120, 3), dtype=np.uint8))
        (folder / "images" / name).write_bytes(data.tobytes())
        images.append({"id": i + 1, "file_name": name, "width": 120, "height": 90})
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
    results, reviews = [], []
    for index, image_id in enumerate(split.image_ids.tolist()):
        label = index % 4 + 1 if index else 3  # found with its own class on the first image alone
        results.append({"image_id": image_id, "category_id": label % 3 + 1, "bbox": [10, 10, 41, 50], "score": 0.8})
        objects = split.annotations(index)
        rows = np.array([[10, 10, 50, 59, 0.8, label % 3 + 1]], np.float32)
        reviews.append(review(index, rows, objects.boxes.copy(), objects.labels))
    card = {"model": "<i>tiny</i>", "overrides": {"x": "<u>"}, "hashes": {"cache": "0" * 64}, "params": {"<b>": "'\"<"}}
    record = {"scorer": "<scorer>", "sha256": {"model": "1" * 64}}
    truth = json.loads(split.ground_truth.read_text())
    return Evaluated(
        card=card,
        record=record,
        metrics=dict.fromkeys(NAMES, 0.25) | {"APs": -1.0},
        class_ap=[0.5, 0.25, 0.0, -1.0],
        voc={},
        matches=match_detections(truth, results),
        reviews=reviews,
        split=split,
    )


def written(evaluated, folder):
    """The page, beside figures that are drawn before it."""
    folder.mkdir()
    for name in ("learning_curve", "precision_recall", "labels"):
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


def test_it_says_why_the_model_fails(pages):
    text = " ".join(Reader(pages[0]).text.split())
    assert "The most costly kind is classification: the right box with the wrong class." in text
    assert "AP of small boxes is -1, not defined" in text and "m2det detect --score 0.80" in text
    for word in ("classification x 1", "Where the model came from", "0" * 64, "1" * 64):
        assert word in text, word


def test_a_model_without_detections_has_a_page(evaluated, tmp_path):
    truth = json.loads(evaluated.split.ground_truth.read_text())
    nothing = match_detections(truth, [])
    reviews = [replace(r, detections=r.detections[:0], correct=r.correct[:0]) for r in evaluated.reviews]
    page = written(replace(evaluated, matches=nothing, reviews=reviews), tmp_path / "pictures")
    assert (
        "No detection is right" in page
        and "none detected" in page
        and "No detection from score 0.5 on is wrong." in page
    )


@pytest.mark.slow
def test_a_browser_shows_it_on_a_laptop_and_a_phone(evaluated, tmp_path):
    """Nothing is wider than the window."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium on this machine")
    page = written(evaluated, tmp_path / "pictures")
    assert len(page.encode()) < MAX_BYTES
    probe = "<p id=probe></p><script>probe.textContent = 'width ' + document.documentElement.scrollWidth</script>"
    page = re.sub("<meta http-equiv[^>]*>", "", page).replace("</body>", probe + "</body>")
    (tmp_path / "report.html").write_text(page)
    for width in (390, 1280):
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},3000", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "report.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        shown = int(re.findall("width ([0-9]+)", done.stdout)[-1])
        assert shown <= max(width, 500), "wider than the window: the smallest of some versions has 500 px"
