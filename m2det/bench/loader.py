"""Images per second and core of the loader's parts, next to the original's way of making the same samples."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from m2det.config import TrainParams
from m2det.data.dataloader import training_loader
from m2det.data.dataset import Key, PlainDataset, TrainingDataset
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.encoding import ImageEncoding
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sampler import TrainingBatchSampler
from m2det.data.sampling import draw_plan
from m2det.data.sources.coco import Category, ImageRecord, Split
from m2det.data.sources.image_folder import ImageFolder
from m2det.errors import InputError
from m2det.files.regular_file import read_file
from m2det.model.preprocess import MEAN_BGR

IMAGES = 64
BATCH = 8
CROP_AND_EXPAND = (6 / 7, 0.6)  # the original's odds


def bench_loader(folder: Path | None, size: int, rounds: int) -> dict[str, float]:
    """Images per second of one core, of each way; with workers, of all of them.

    folder: of JPEGs, of which the first 64 are taken; none: pieces of scikit-learn's photographs, 640x480 px. Each
    image gets seven made-up boxes, COCO's mean. Each figure is the best of `rounds`, taken in turn; loaders' are by
    the wall's clock.
    """
    jpegs = [read_file(p) for p in sorted(folder.glob("*.jpg"))[:IMAGES]] if folder else _photographs()
    if len(jpegs) < BATCH:
        raise InputError(f"{folder} has {len(jpegs)} JPEGs (*.jpg), not {BATCH} at least")
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        original, raw = (_packed(Path(name) / s.images, jpegs, s) for s in (ImageEncoding(), ImageEncoding("raw", 640)))
        settings = TrainParams.model_construct(
            crop_probability=CROP_AND_EXPAND[0], expand_probability=CROP_AND_EXPAND[1], hflip=True
        )
        jpeg, pixels = (TrainingDataset(split, size, 0, settings) for split in (original, raw))
        plain = PlainDataset(original, size)
        out, epochs = np.empty((size, size, 3), np.uint8), itertools.count()

        def each(one: Callable[[int, int], Any]) -> Callable[[], int]:
            def all_of_them() -> int:
                epoch = next(epochs)
                for index in range(len(jpegs)):
                    one(epoch, index)
                return len(jpegs)

            return all_of_them

        def loaded(workers: int) -> Callable[[], int]:
            order = TrainingBatchSampler(len(jpegs), BATCH, 0, 10**9)
            batches = training_loader(jpeg, order, workers, False)
            return lambda: sum(len(next(batches).images) for _ in range(order.steps_per_epoch * 2))

        ways = {
            "the original's way": each(lambda *key: original_way(original, key, size)),
            "decoding alone": each(lambda _, i: decode_bgr(original.record(i), "")),
            "decoding and resizing": each(lambda _, i: plain[i]),
            "all, from JPEG": each(lambda epoch, i: jpeg.fill((epoch, i), out)),
            "all, from raw pixels": each(lambda epoch, i: pixels.fill((epoch, i), out)),
            "loader, 1 worker": loaded(1),
            "loader, 2 workers": loaded(2),
        }
        best = dict.fromkeys(ways, 0.0)
        for what in list(ways):
            ways[what]()  # caches warm, workers started
        for _, what in itertools.product(range(rounds), list(ways)):
            # other work on the machine would count as ours, so one core's ways are timed by the processor's clock
            clock = time.perf_counter if what.startswith("loader") else time.process_time
            start = clock()
            best[what] = max(best[what], ways[what]() / (clock() - start))
        del ways  # and the loaders with it, before what they read
    return best


def original_way(split: PackedSplit, key: Key, size: int) -> np.ndarray:
    """A sample's float32 [3,S,S] as the original's data/data_augment.py makes it, step by step, for its cost.

    Every step makes a picture of its own, the canvas is up to 16 times as large as the image. What is drawn is drawn
    our way, which is the faster one.
    """
    rng, index = np.random.default_rng(key), key[1]
    image = decode_bgr(split.record(index), "").copy()
    width, height = split.sizes[index].tolist()
    place = draw_plan(split.annotations(index).boxes, width, height, rng, *CROP_AND_EXPAND, mirror=False).place
    image = image[place.top : place.top + place.height, place.left : place.left + place.width].copy()
    if rng.random() < 0.5:
        image[:] = (image.astype(float) + rng.uniform(-32, 32)).clip(0, 255)
    if rng.random() < 0.5:
        image[:] = (image.astype(float) * rng.uniform(0.5, 1.5)).clip(0, 255)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    if rng.random() < 0.5:
        image[..., 0] = (image[..., 0].astype(int) + rng.integers(-18, 19)) % 180
    if rng.random() < 0.5:
        image[..., 1] = (image[..., 1].astype(float) * rng.uniform(0.5, 1.5)).clip(0, 255)
    image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    if place.x_share < 1:
        canvas = np.empty((int(place.height / place.y_share), int(place.width / place.x_share), 3), np.uint8)
        canvas[:] = MEAN_BGR
        left, top = int(place.x * canvas.shape[1]), int(place.y * canvas.shape[0])
        canvas[top : top + place.height, left : left + place.width] = image
        image = canvas
    image = image[:, :: rng.choice((1, -1))]
    small = cv2.resize(image, (size, size), interpolation=int(rng.integers(5))).astype(np.float32)
    return np.ascontiguousarray((small - np.array(MEAN_BGR, np.float32)).transpose(2, 0, 1))


def _photographs() -> list[bytes]:
    from m2det.data.sources.digits import photographs

    rng, pieces = np.random.default_rng(0), []
    pictures = [cv2.resize(cv2.imread(str(path)), (960, 720)) for path in photographs()]
    for number in range(IMAGES):
        x, y = rng.integers(0, (320, 240))
        piece = pictures[number % len(pictures)][y : y + 480, x : x + 640]
        pieces.append(cv2.imencode(".jpg", piece, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    return pieces


def _packed(folder: Path, jpegs: list[bytes], storage: ImageEncoding) -> PackedSplit:
    rng, records = np.random.default_rng(0), []
    folder.mkdir()
    for number, data in enumerate(jpegs):
        path = folder / f"{number}.jpg"
        path.write_bytes(data)
        height, width = decode_bgr(data, path.name).shape[:2]
        corner, extent = rng.uniform(0, 0.7, (7, 2)), rng.uniform(0.02, 0.3, (7, 2))
        boxes = (np.concatenate([corner, corner + extent], 1) * ([width, height] * 2)).astype(np.float32)
        labels, none = np.ones(7, np.int16), np.zeros(7, bool)
        records.append(
            ImageRecord(number, path.name, ImageFolder(folder), width, height, boxes, labels, none, boxes[:, 0])
        )
    categories = [Category(1, "thing")]
    split = Split(records, categories, {}, 0, {"images": [], "annotations": [], "categories": []})
    finish_cache(folder, categories, {"train": write_split(folder, "train", split, lambda *_: None, storage)})
    return PackedSplit(folder, "train")
