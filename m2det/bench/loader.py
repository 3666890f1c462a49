"""Images per second and core of the loader's parts, beside the original's steps to the same samples."""

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
from m2det.data.sampling import sample_augmentation
from m2det.data.sources.image_folder import ImageFolder
from m2det.data.sources.records import Category, ImageRecord, Split
from m2det.errors import InputError
from m2det.files.regular_file import read_file
from m2det.model.preprocess import MEAN_BGR

IMAGES = 64
BATCH = 8
CROP_AND_EXPAND = (6 / 7, 0.6)  # the original's probabilities


def bench_loader(folder: Path | None, size: int, rounds: int) -> dict[str, float]:
    """Measure images per second, of one core, and of the whole loader with workers.

    Args:
        folder: of JPEGs, of which the first 64 are used; None for pieces of scikit-learn's photographs, 640x480 px.
            Each image gets seven made-up boxes, COCO's mean.
        size: of the samples in pixels.
        rounds: of all measurements in turn, of which the best counts.

    Returns:
        Images per second by what was measured: per second of CPU time, but for the loader per second of wall time.
    """
    jpegs = [read_file(p) for p in sorted(folder.glob("*.jpg"))[:IMAGES]] if folder else _photographs()
    if len(jpegs) < BATCH:
        raise InputError(f"{folder} has {len(jpegs)} JPEGs (*.jpg), not {BATCH} at least")
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder_name:
        encodings = ImageEncoding(), ImageEncoding("raw", 640)
        original, raw = (_packed(Path(folder_name) / e.images, jpegs, e) for e in encodings)
        settings = TrainParams.model_construct(
            crop_probability=CROP_AND_EXPAND[0], expand_probability=CROP_AND_EXPAND[1], hflip=True
        )
        jpeg, pixels = (TrainingDataset(split, size, 0, settings) for split in (original, raw))
        plain = PlainDataset(original, size)
        out, epochs = np.empty((size, size, 3), np.uint8), itertools.count()

        def per_image(function: Callable[[int, int], Any]) -> Callable[[], int]:
            def all_images() -> int:
                epoch = next(epochs)
                for index in range(len(jpegs)):
                    function(epoch, index)
                return len(jpegs)

            return all_images

        def loader(workers: int) -> Callable[[], int]:
            order = TrainingBatchSampler(len(jpegs), BATCH, 0, 10**9)
            batches = training_loader(jpeg, order, workers, False)
            return lambda: sum(len(next(batches).images) for _ in range(order.steps_per_epoch * 2))

        measurements = {
            "the original's way": per_image(lambda *key: original_sample(original, key, size)),
            "decoding alone": per_image(lambda _, i: decode_bgr(original.record(i), "")),
            "decoding and resizing": per_image(lambda _, i: plain[i]),
            "all, from JPEG": per_image(lambda epoch, i: jpeg.write_sample((epoch, i), out)),
            "all, from raw pixels": per_image(lambda epoch, i: pixels.write_sample((epoch, i), out)),
            "loader, 1 worker": loader(1),
            "loader, 2 workers": loader(2),
        }
        best = dict.fromkeys(measurements, 0.0)
        for name in list(measurements):
            measurements[name]()  # fills caches, starts workers
        for _, name in itertools.product(range(rounds), list(measurements)):
            # CPU time, where one core works, leaves out what else the machine does
            clock = time.perf_counter if name.startswith("loader") else time.process_time
            start = clock()
            best[name] = max(best[name], measurements[name]() / (clock() - start))
        del measurements  # ends the loaders before their cache is removed
    return best


def original_sample(split: PackedSplit, key: Key, size: int) -> np.ndarray:
    """Return a sample, float32 [3,S,S], by the steps of the original's data/data_augment.py.

    Every step copies the image, and the canvas is up to 16 times as large as the image. Random numbers are sampled by
    this project's code, which is faster.
    """
    rng, index = np.random.default_rng(key), key[1]
    image = decode_bgr(split.record(index), "").copy()
    width, height = split.sizes[index].tolist()
    sample = sample_augmentation(split.annotations(index).boxes, width, height, rng, *CROP_AND_EXPAND, hflip=False)
    (x1, y1, x2, y2), (left, top, right, bottom) = sample.src_rect, sample.dst_rect
    image = image[y1:y2, x1:x2].copy()
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
    if right - left < 1:
        canvas = np.empty((int((y2 - y1) / (bottom - top)), int((x2 - x1) / (right - left)), 3), np.uint8)
        canvas[:] = MEAN_BGR
        x, y = int(left * canvas.shape[1]), int(top * canvas.shape[0])
        canvas[y : y + y2 - y1, x : x + x2 - x1] = image
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


def _packed(folder: Path, jpegs: list[bytes], encoding: ImageEncoding) -> PackedSplit:
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
    finish_cache(folder, categories, {"train": write_split(folder, "train", split, "header", encoding)})
    return PackedSplit(folder, "train")
