"""Images per second and core of the loader's parts, next to the original's way of making the same samples."""

from __future__ import annotations

import itertools
import math
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from m2det.config import TrainParams
from m2det.data.augment import MEAN_BGR, UNCHANGED, Placement, render, view_of
from m2det.data.coco import Category, ImageRecord, Split
from m2det.data.image import decode_bgr
from m2det.data.loader import TrainingOrder, TrainingSamples, training_loader
from m2det.data.storage import Storage
from m2det.data.store import PackedSplit, finish_cache, write_split
from m2det.errors import InputError

IMAGES = 64
BATCH = 8
ODDS = {"crop_probability": 6 / 7, "expand_probability": 0.6, "mirror": True}  # the original's


def bench_loader(folder: Path | None, size: int, rounds: int) -> dict[str, float]:
    """Images per second of one core, of each way; with workers, of all of them.

    folder: of JPEGs, of which the first 64 are taken; none: pieces of scikit-learn's photographs, 640x480 px. Each
    image gets seven made-up boxes, COCO's mean. Each figure is the best of `rounds`, taken in turn.
    """
    jpegs = [p.read_bytes() for p in sorted(folder.glob("*.jpg"))[:IMAGES]] if folder else _photographs()
    if len(jpegs) < BATCH:
        raise InputError(f"{folder} has {len(jpegs)} JPEGs (*.jpg), not {BATCH} at least")
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        original, raw = (_packed(Path(name) / s.images, jpegs, s) for s in (Storage(), Storage("raw", 640)))
        settings = TrainParams.model_construct(None, **ODDS)
        jpeg, pixels = (TrainingSamples(split, size, 0, settings) for split in (original, raw))
        out, epochs = np.empty((size, size, 3), np.uint8), itertools.count()

        def each(one: Callable[[int, int], Any]) -> Callable[[], int]:
            def all_of_them() -> int:
                epoch = next(epochs)
                for index in range(len(jpegs)):
                    one(epoch, index)
                return len(jpegs)

            return all_of_them

        def loaded(workers: int) -> Callable[[], int]:
            order = TrainingOrder(len(jpegs), BATCH, 0, 10**9)
            batches = training_loader(jpeg, order, workers, False)
            return lambda: sum(len(next(batches).images) for _ in range(order.steps_per_epoch * 2))

        ways = {
            "the original's way": each(lambda _, i: original_way(original, i, size)),
            "decoding alone": each(lambda _, i: decode_bgr(original.record(i), "")),
            "decoding and resizing": each(lambda _, i: _resized(original, i, out)),
            "all, from JPEG": each(lambda epoch, i: jpeg.fill((epoch, i), out)),
            "all, from raw pixels": each(lambda epoch, i: pixels.fill((epoch, i), out)),
            "loader, 1 worker": loaded(1),
            "loader, 2 workers": loaded(2),
        }
        best = dict.fromkeys(ways, 0.0)
        for what in list(ways):
            ways[what]()  # caches warm, workers started
        for _, what in itertools.product(range(rounds), list(ways)):
            start = time.perf_counter()
            best[what] = max(best[what], ways[what]() / (time.perf_counter() - start))
        del ways  # and the loaders with it, before what they read
    return best


def original_way(split: PackedSplit, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A sample as the original's data/data_augment.py makes it, step by step: float32 [3,S,S] and boxes [M,4].

    Written from its description, for its cost: every step makes a picture of its own, the canvas is up to 16 times
    as large as the image.
    """
    image = decode_bgr(split.record(index), "")
    boxes = split.annotations(index).boxes
    image, boxes = _crop(image, boxes)
    image = image.copy()
    if random.random() < 0.5:
        image[:] = (image.astype(float) + random.uniform(-32, 32)).clip(0, 255)
    if random.random() < 0.5:
        image[:] = (image.astype(float) * random.uniform(0.5, 1.5)).clip(0, 255)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    if random.random() < 0.5:
        image[..., 0] = (image[..., 0].astype(int) + random.randint(-18, 18)) % 180
    if random.random() < 0.5:
        image[..., 1] = (image[..., 1].astype(float) * random.uniform(0.5, 1.5)).clip(0, 255)
    image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    if random.random() < ODDS["expand_probability"]:
        image, boxes = _expand(image, boxes)
    if random.random() < 0.5:
        image = image[:, ::-1]
        boxes = np.stack([image.shape[1] - boxes[:, 2], boxes[:, 1], image.shape[1] - boxes[:, 0], boxes[:, 3]], 1)
    height, width = image.shape[:2]
    small = cv2.resize(image, (size, size), interpolation=random.randrange(5)).astype(np.float32)
    small -= np.array(MEAN_BGR, np.float32)
    return np.ascontiguousarray(small.transpose(2, 0, 1)), boxes / [width, height, width, height]


def _crop(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    areas, centres = (boxes[:, 2:] - boxes[:, :2]).prod(1), (boxes[:, :2] + boxes[:, 2:]) / 2
    while (mode := random.choice((None, 0.1, 0.3, 0.5, 0.7, 0.9, -math.inf))) is not None:
        for _ in range(50):
            scale = random.uniform(0.3, 1.0)
            ratio = math.sqrt(random.uniform(max(0.5, scale**2), min(2, scale**-2)))
            w, h = int(scale * ratio * width), int(scale / ratio * height)
            left, top = random.randrange(width - w), random.randrange(height - h)
            low, high = np.array([left, top]), np.array([left + w, top + h])
            overlap = (np.minimum(boxes[:, 2:], high) - np.maximum(boxes[:, :2], low)).clip(0).prod(1)
            if (overlap / (areas + w * h - overlap)).min() < mode:
                continue
            inside = ((low < centres) & (centres < high)).all(1)
            if inside.any():
                kept = np.concatenate([np.maximum(boxes[inside, :2], low), np.minimum(boxes[inside, 2:], high)], 1)
                return image[top : top + h, left : left + w], kept - [left, top, left, top]
    return image, boxes


def _expand(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    for _ in range(50):
        scale = random.uniform(1, 4)
        ratio = math.sqrt(random.uniform(max(0.5, scale**-2), min(2, scale**2)))
        w, h = int(scale * ratio * width), int(scale / ratio * height)
        if w < width or h < height:
            continue
        left, top = random.randint(0, w - width), random.randint(0, h - height)
        canvas = np.empty((h, w, 3), np.uint8)
        canvas[:, :] = MEAN_BGR
        canvas[top : top + height, left : left + width] = image
        return canvas, boxes + np.array([left, top, left, top])
    return image, boxes


def _resized(split: PackedSplit, index: int, out: np.ndarray) -> None:
    whole = (*split.sizes[index].tolist(),)
    view = view_of(Placement(0, 0, *whole), whole, whole, len(out), False)
    render(decode_bgr(split.record(index), ""), view, out, UNCHANGED)


def _photographs() -> list[bytes]:
    from m2det.export import photographs

    rng, pieces = np.random.default_rng(0), []
    pictures = [cv2.resize(cv2.imread(str(path)), (960, 720)) for path in photographs()]
    for number in range(IMAGES):
        x, y = rng.integers(0, (320, 240))
        piece = pictures[number % len(pictures)][y : y + 480, x : x + 640]
        pieces.append(cv2.imencode(".jpg", piece, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    return pieces


def _packed(folder: Path, jpegs: list[bytes], storage: Storage) -> PackedSplit:
    rng, records = np.random.default_rng(0), []
    folder.mkdir()
    for number, data in enumerate(jpegs):
        path = folder / f"{number}.jpg"
        path.write_bytes(data)
        height, width = decode_bgr(data, path.name).shape[:2]
        corner, extent = rng.uniform(0, 0.7, (7, 2)), rng.uniform(0.02, 0.3, (7, 2))
        boxes = (np.concatenate([corner, corner + extent], 1) * ([width, height] * 2)).astype(np.float32)
        labels, none = np.ones(7, np.int16), np.zeros(7, bool)
        records.append(ImageRecord(number, path.name, path, width, height, boxes, labels, none, boxes[:, 0]))
    categories = [Category(1, "thing")]
    split = Split(records, categories, {}, 0, {"images": [], "annotations": [], "categories": []})
    finish_cache(folder, categories, {"train": write_split(folder, "train", split, lambda *_: None, storage)})
    return PackedSplit(folder, "train")
