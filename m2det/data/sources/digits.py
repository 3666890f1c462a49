"""The embedded dataset `digits`: real handwritten digits on real photographs, in the COCO 2014 layout.

Digits: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository (CC BY 4.0), of which scikit-learn carries 1797 of 8x8 pixels. Photographs: china.jpg by
danielbuechele and flower.jpg by vultilion, both on Flickr (CC BY 2.0), carried by scikit-learn too.
Nothing is downloaded. Ranges are fixed by the constants below, so that the difficulty cannot drift.
"""

from __future__ import annotations

import json
import math
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from m2det.errors import InputError

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # xywh in pixels

SIDE = 160  # of the square images, px
GLYPH_SIDE = (0.18, 0.50)  # longer side of a digit's box over SIDE, log-uniform
DEGREES = 15.0  # rotation within plus or minus this, uniform
MAX_DIGITS = 6  # per image, at least 1, uniform
MAX_OVERLAP = 0.2  # of two boxes: intersection over the smaller box
WHITE, BLACK, INK_SPREAD = 225, 30, 30  # ink per channel: base plus or minus the spread
VISIBLE = 48  # ink is visible above this alpha, of 255; boxes are tight around visible ink
CROP_SIDE = (100, 240)  # of the square background crops, px of the photograph
GAIN = (0.8, 1.1)  # brightness of the background
QUALITY = 90  # of the JPEGs
MAX_LAYOUTS = 20  # arrangements tried before an image gets fewer digits

PHOTOS = ("china.jpg", "flower.jpg")
EMPTY_EVERY = 50  # images whose id it divides have no objects
GREY_ID = 7  # this training image is a JPEG of one channel
CROWD_ID = 1517  # this minival image has a crowd region: 4x4 digits of one class in one box


class Part(NamedTuple):
    """One annotation file of distinct images, and what its images are made of."""

    name: str
    folder: str
    image_ids: range
    samples: range  # of scikit-learn's digits
    columns: range  # of the photographs, px


# The last 397 samples are by other writers than most of the first: only minival has them, and the right-hand side of
# both photographs.
PARTS = (
    Part("train2014", "train2014", range(1, 1401), range(1400), range(400)),
    Part("valminusminival2014", "val2014", range(1401, 1501), range(1400), range(400)),
    Part("minival2014", "val2014", range(1501, 1701), range(1400, 1797), range(400, 640)),
)

_HEADER: dict[str, Any] = {
    "info": {
        "description": "digits: handwritten digits on photographs, made by m2det",
        "contributor": "digits: E. Alpaydin, C. Kaynak; photographs: danielbuechele, vultilion",
        "url": "https://archive.ics.uci.edu/dataset/80",
        "version": "1.0",
    },
    "licenses": [
        {
            "id": 1,
            "name": "Digits: CC BY 4.0, E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits",
            "url": "https://creativecommons.org/licenses/by/4.0/",
        },
        {
            "id": 2,
            "name": "Photographs: CC BY 2.0, china.jpg by danielbuechele, flower.jpg by vultilion (Flickr)",
            "url": "https://creativecommons.org/licenses/by/2.0/",
        },
    ],
    "categories": [{"id": digit + 1, "name": str(digit), "supercategory": "digit"} for digit in range(10)],
}


class Glyph(NamedTuple):
    """Ink to paint: alpha uint8 [h, w], tight around the visible ink, its label, and the digit samples in it."""

    alpha: Image
    label: int
    samples: list[int]
    degrees: list[float]
    crowd: bool


def make_digits(root: Path, seed: int = 0) -> None:
    """Write `digits` under root: images/{train2014,val2014} and annotations/instances_*2014.json.

    The same seed gives the same bytes. An image's entry has the keys `photo` and `crop` (xywh in pixels of the
    photograph), an annotation's `samples` (of scikit-learn's digits) and `degrees` (rotation).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    strokes = (digits.images * (255 / 16)).astype(np.float32)
    labels = digits.target
    photos = [np.asarray(cv2.imread(str(files("sklearn.datasets.images") / name)), np.uint8) for name in PHOTOS]

    contents: dict[str, dict[str, list[Any]]] = {}
    for part in PARTS:
        folder = root / "images" / part.folder
        folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, list[Any]] = {"images": [], "annotations": []}
        contents[part.name] = content
        for image_id in part.image_ids:
            rng = np.random.default_rng([seed, image_id])
            canvas, origin = _background(rng, photos, part.columns)
            glyphs = [] if image_id % EMPTY_EVERY == 0 else _glyphs(rng, strokes, labels, part.samples)
            if image_id == CROWD_ID:
                glyphs.insert(0, _crowd(rng, strokes, labels, part.samples))
            for index, (glyph, box) in enumerate(_layout(rng, glyphs)):
                _paint(rng, canvas, glyph, box)
                content["annotations"].append(_annotation(image_id, index, glyph, box))
            file_name = f"COCO_{part.folder}_{image_id:012d}.jpg"
            (folder / file_name).write_bytes(_jpeg(canvas, grey=image_id == GREY_ID))
            size = {"width": SIDE, "height": SIDE}
            content["images"].append({"id": image_id, "file_name": file_name, "license": 2, **size, **origin})

    rest, minival = (contents[part.name] for part in PARTS[1:])
    contents["val2014"] = {key: rest[key] + minival[key] for key in rest}
    (root / "annotations").mkdir(exist_ok=True)
    for name, content in contents.items():
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(_HEADER | content))


def _background(rng: np.random.Generator, photos: list[Image], columns: range) -> tuple[Image, dict[str, Any]]:
    """Sample a square of the allowed columns of a photograph: uint8 [SIDE, SIDE, 3] BGR, and its origin."""
    index = int(rng.integers(len(photos)))
    side = int(rng.integers(CROP_SIDE[0], CROP_SIDE[1], endpoint=True))
    x = int(rng.integers(columns.start, columns.stop - side, endpoint=True))
    y = int(rng.integers(0, len(photos[index]) - side, endpoint=True))
    crop = cv2.resize(photos[index][y : y + side, x : x + side], (SIDE, SIDE))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    canvas = (crop * rng.uniform(*GAIN)).clip(0, 255).astype(np.uint8)
    return canvas, {"photo": PHOTOS[index], "crop": [x, y, side, side]}


def _glyphs(rng: np.random.Generator, strokes: NDArray, labels: NDArray, samples: range) -> list[Glyph]:
    """Sample 1 to MAX_DIGITS digits, largest first: then more of them find room."""
    low, high = (math.log(fraction * SIDE) for fraction in GLYPH_SIDE)
    glyphs = []
    for _ in range(rng.integers(1, MAX_DIGITS, endpoint=True)):
        sample = int(rng.integers(samples.start, samples.stop))
        side = round(math.exp(rng.uniform(low, high)))
        degrees = rng.uniform(-DEGREES, DEGREES)
        alpha = _alpha(strokes[sample], degrees, side)
        glyphs.append(Glyph(alpha, int(labels[sample]), [sample], [degrees], crowd=False))
    return sorted(glyphs, key=lambda glyph: -glyph.alpha.size)


def _crowd(rng: np.random.Generator, strokes: NDArray, labels: NDArray, samples: range) -> Glyph:
    """Sample 4x4 small digits of one class, too dense to annotate one by one: one glyph."""
    label = int(rng.integers(10))
    of_label = [index for index in samples if labels[index] == label]
    chosen = [int(index) for index in rng.choice(of_label, 16, replace=False)]
    degrees = rng.uniform(-DEGREES, DEGREES, 16).tolist()
    block = np.zeros((80, 80), np.uint8)
    for cell, sample in enumerate(chosen):
        alpha = _alpha(strokes[sample], degrees[cell], 20)
        h, w = alpha.shape
        y, x = cell // 4 * 20 + (20 - h) // 2, cell % 4 * 20 + (20 - w) // 2
        block[y : y + h, x : x + w] = alpha
    return Glyph(_tight(block), label, chosen, degrees, crowd=True)


def _alpha(stroke: NDArray, degrees: float, side: int) -> Image:
    """Enlarge and rotate a digit, float32 [8, 8] of 0..255, smoothly: uint8 [h, w], max(h, w) == side."""
    large = cv2.resize(np.pad(stroke, 2), (144, 144), interpolation=cv2.INTER_CUBIC)
    rotation = cv2.getRotationMatrix2D((71.5, 71.5), degrees, 1)
    ink = _tight(cv2.warpAffine(large, rotation, (144, 144)).clip(0, 255))
    h, w = (round(n * side / max(ink.shape)) for n in ink.shape)
    alpha = cv2.resize(ink, (w, h), interpolation=cv2.INTER_AREA).round().astype(np.uint8)
    assert _tight(alpha).shape == (h, w), "the box must be tight around visible ink"
    return alpha


def _tight(alpha: NDArray) -> NDArray:
    rows, columns = (np.flatnonzero((alpha > VISIBLE).any(axis)) for axis in (1, 0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _layout(rng: np.random.Generator, glyphs: list[Glyph]) -> list[tuple[Glyph, Box]]:
    """Sample a place for each glyph among all places with little overlap; return the layout with most glyphs."""
    best: list[tuple[Glyph, Box]] = []
    for _ in range(MAX_LAYOUTS):
        placed: list[tuple[Glyph, Box]] = []
        for glyph in glyphs:
            h, w = glyph.alpha.shape
            places = np.flatnonzero(_free(h, w, [box for _, box in placed]))
            if len(places):
                y, x = divmod(int(rng.choice(places)), SIDE - w + 1)
                placed.append((glyph, (x, y, w, h)))
        best = max(best, placed, key=len)
        if len(best) == len(glyphs):
            break
    return best


def _free(h: int, w: int, boxes_xywh: list[Box]) -> NDArray[np.bool_]:
    """Return where the top left corner of an h x w box may be, bool [SIDE - h + 1, SIDE - w + 1]."""
    y, x = np.arange(SIDE - h + 1)[:, None], np.arange(SIDE - w + 1)
    free = np.ones((len(y), len(x)), bool)
    for bx, by, bw, bh in boxes_xywh:
        shared_h = np.maximum(0, np.minimum(y + h, by + bh) - np.maximum(y, by))
        shared_w = np.maximum(0, np.minimum(x + w, bx + bw) - np.maximum(x, bx))
        free &= shared_h * shared_w <= MAX_OVERLAP * min(h * w, bh * bw)
    return free


def _paint(rng: np.random.Generator, canvas: Image, glyph: Glyph, box_xywh: Box) -> None:
    """Blend ink over the canvas in place: near white where the canvas is dark below the strokes, else near black."""
    x, y, w, h = box_xywh
    ground = canvas[y : y + h, x : x + w]
    alpha = glyph.alpha.astype(np.float32) / 255
    luminance = (cv2.cvtColor(ground, cv2.COLOR_BGR2GRAY) * alpha).sum() / alpha.sum()
    ink = (WHITE if luminance < 128 else BLACK) + rng.uniform(-INK_SPREAD, INK_SPREAD, 3).astype(np.float32)
    ground[:] = (ground + (ink - ground) * alpha[..., None]).round()


def _annotation(image_id: int, index: int, glyph: Glyph, box_xywh: Box) -> dict[str, Any]:
    x, y, w, h = box_xywh
    rectangle: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if glyph.crowd:  # COCO writes crowds as run lengths, column by column, the outside first
        inside = [x * SIDE + y] + [h, SIDE - h] * (w - 1) + [h]
        rectangle = {"size": [SIDE, SIDE], "counts": [*inside, SIDE * SIDE - sum(inside)]}
    return {
        "id": image_id * 10 + index,
        "image_id": image_id,
        "category_id": glyph.label + 1,
        "bbox": [x, y, w, h],
        "area": w * h,
        "segmentation": rectangle,
        "iscrowd": int(glyph.crowd),
        "samples": glyph.samples,
        "degrees": [round(degrees, 2) for degrees in glyph.degrees],
    }


def _jpeg(canvas: Image, grey: bool) -> bytes:
    pixels = cv2.cvtColor(canvas, cv2.COLOR_BGR2GRAY) if grey else canvas
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return data.tobytes()


def photographs() -> list[Path]:
    """Return scikit-learn's JPEG photographs. Raises InputError where scikit-learn is not installed."""
    if find_spec("sklearn") is None:
        raise InputError("give pictures to check the export with: --images FILE|FOLDER")
    folder = Path(str(files("sklearn.datasets.images")))
    return sorted(folder.glob("*.jpg"))
