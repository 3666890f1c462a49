"""The training loader: the same batches for any number of workers, every image once, and no process left over."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from m2det.config import TrainParams
from m2det.data import dataloader as module
from m2det.data.dataloader import training_loader
from m2det.data.dataset import PlainDataset, TrainingDataset
from m2det.data.packed.encoding import ImageEncoding
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sampler import TrainingBatchSampler
from m2det.data.sources.coco import read_split
from m2det.errors import InputError
from tests.conftest import ROOT

SIDE, BATCH, IMAGES = 48, 4, 12
ODDS = TrainParams.model_construct(None, crop_probability=6 / 7, expand_probability=0.6, hflip=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twelve smooth pictures: image 1 has no objects, image 2 has 70, image 3 a crowd alone."""
    folder = tmp_path_factory.mktemp("source")
    rng, images, annotations = np.random.default_rng(0), [], []
    for i in range(1, IMAGES + 1):
        noise = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), cv2.resize(noise, (260 + i, 200), interpolation=cv2.INTER_CUBIC))
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 260 + i, "height": 200})
        for n in range({1: 0, 2: 70}.get(i, 1)):
            box = [2.0 * n + 5, 40.0, 60.0, 80.0]
            entry = {"id": len(annotations), "image_id": i, "category_id": 1, "bbox": box, "area": 4800.0}
            annotations.append(entry | {"iscrowd": int(i == 3)})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "a.json").write_text(json.dumps(content))
    return folder


def packed(source, folder, encoding: ImageEncoding) -> PackedSplit:
    folder.mkdir()
    split = read_split([(source / "a.json", source)])
    finish_cache(folder, split.categories, {"train": write_split(folder, "train", split, encoding=encoding)})
    return PackedSplit(folder, "train")


@pytest.fixture(scope="module")
def samples(source, tmp_path_factory):
    return TrainingDataset(packed(source, tmp_path_factory.mktemp("cache") / "c", ImageEncoding()), SIDE, 3, ODDS)


def order(steps: int = 6, start: int = 0) -> TrainingBatchSampler:
    return TrainingBatchSampler(IMAGES, BATCH, 3, steps, start)


def copies(loader) -> list[tuple[np.ndarray, ...]]:
    return [tuple(x.numpy().copy() for x in (b.images, b.boxes, b.labels, b.index)) for b in loader]


def same(first, second) -> bool:
    pairs = zip(first, second, strict=True)
    return all(np.array_equal(x, y) for a, b in pairs for x, y in zip(a, b, strict=True))


def test_any_number_of_workers_gives_the_same_bytes_and_every_image_once(samples):
    alone = copies(training_loader(samples, order(), 0, False))
    for workers in (1, 2):
        assert same(copies(training_loader(samples, order(), workers, False)), alone)
    for epoch in (alone[:3], alone[3:]):
        assert sorted(np.concatenate([index for *_, index in epoch]).tolist()) == list(range(IMAGES))
    assert not np.array_equal(alone[0][0], alone[3][0])
    assert same(copies(training_loader(samples, order(start=4), 2, False)), alone[4:]), "resuming is instant and exact"
    assert alone[0][0].shape == (BATCH, 3, SIDE, SIDE) and alone[0][0].dtype == np.uint8


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_batches_of_two_steps_lie_side_by_side(samples, workers, accumulate):
    """A step's batches are computed while those of the next are taken: none may be overwritten by then."""
    parts = TrainingBatchSampler(IMAGES, 2 * accumulate, 3, 8, microbatch=2)
    expected = copies(training_loader(samples, parts, 0, False))
    loader = training_loader(samples, parts, workers, False)
    taken = list(itertools.islice(loader, accumulate))  # the first step's
    for first in range(accumulate, len(expected), accumulate):
        coming = list(itertools.islice(loader, 1))  # the next is asked for before the step is done
        time.sleep(0.05 * workers)  # workers go on meanwhile
        assert same(copies(taken), expected[first - accumulate : first])
        taken = [*coming, *itertools.islice(loader, accumulate - 1)]


def test_forkserver_gives_the_same_batches(samples, forkserver):  # noqa: ARG001
    assert same(
        copies(training_loader(samples, order(2), 2, False)), copies(training_loader(samples, order(2), 0, False))
    )


def test_empty_and_crowded_images(source, tmp_path):
    split = packed(source, tmp_path / "c", ImageEncoding())
    still = TrainParams.model_construct(None, crop_probability=0.0, expand_probability=0.0, hflip=False)
    seen = {}
    for images, boxes, labels, index in copies(
        training_loader(TrainingDataset(split, SIDE, 0, still), order(3), 0, False)
    ):
        for k, i in enumerate(index.tolist()):
            seen[i] = (images[k], int((labels[k] > 0).sum()), boxes.shape[1])
    assert [seen[i][1] for i in range(4)] == [0, 70, 0, 1]
    assert seen[1][2] == 128, "padded to 128, the next of 16, 32, 64, ... above 70"
    plain = PlainDataset(split, SIDE)
    for i in (0, 2):  # without objects, so only resized
        assert np.abs(seen[i][0].transpose(1, 2, 0).astype(int) - plain[i][0]).mean() < 3  # read at a quarter


@pytest.mark.parametrize(
    "encoding",
    [ImageEncoding("raw", 0), ImageEncoding("raw", 130), ImageEncoding("jpeg", 130, 95), ImageEncoding("jpeg", 0, 90)],
)
def test_a_cache_of_another_encoding_gives_the_same_samples(source, samples, tmp_path, encoding):
    """Same random numbers, boxes within the rounding of a smaller image, pixels within the loss of the encoding."""
    other = TrainingDataset(packed(source, tmp_path / "c", encoding), SIDE, 3, ODDS)
    assert other.split.encoding == encoding
    for index in range(IMAGES):
        image, boxes, labels, _ = samples[0, index]
        other_image, other_boxes, other_labels, _ = other[0, index]
        if len(labels) == len(other_labels):  # a sliver of a box may fall below the least side
            np.testing.assert_allclose(other_boxes, boxes, atol=0.04)
        assert abs(len(labels) - len(other_labels)) <= 2
        assert np.abs(other_image.astype(int) - image).mean() < (8 if encoding.side else 4)


@pytest.mark.usefixtures("quiet_signals")
@pytest.mark.parametrize(
    ("victim", "number", "advice"), [(0, "KILL", "lower"), (1, "BUS", ".*`m2det data verify` finds the damage")]
)
def test_a_killed_worker_is_an_error_within_seconds(samples, victim, number, advice):
    loader = training_loader(samples, order(10**6), 2, False)
    next(loader)
    before = {p.pid for p in multiprocessing.active_children()}
    os.kill(sorted(before)[victim], signal.Signals[f"SIG{number}"])
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"data-loading process \d+ was killed \(signal SIG{number}\); {advice}"):
        for _ in loader:
            pass
    assert time.monotonic() - start < 30
    assert not multiprocessing.active_children(), "the others were ended"


def test_batches_that_do_not_fit_into_shared_memory_are_warned_of(samples, monkeypatch, caplog):
    """Docker's 64 MB, say: multiprocessing then takes a file on disk, and says nothing."""
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=20_000))
    assert len(list(training_loader(samples, order(2), 1, False))) == 2
    assert "MB of shared memory and /dev/shm has 0: they lie in a file on disk" in caplog.text


class Broken:
    size = SIDE

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write_sample(self, *_):
        raise self.error


def test_an_error_in_a_worker_is_raised_with_its_message_or_traceback():
    with pytest.raises(InputError, match=r"^bad picture$"):
        next(training_loader(Broken(InputError("bad picture")), order(), 1, False))
    with pytest.raises(RuntimeError, match="KeyError: 'lost'"):
        next(training_loader(Broken(KeyError("lost")), order(), 1, False))
    assert not multiprocessing.active_children()


def test_signals_to_the_group_leave_the_workers_to_the_trainer(samples):
    loader = training_loader(samples, order(10), 2, False)
    next(loader)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGINT)
    assert len(list(loader)) == 9


ORPHANS = """
import multiprocessing, sys
from m2det.data import PackedSplit, TrainingBatchSampler, TrainingDataset
from m2det.data.dataloader import server_context, worker_batches
from m2det.config import TrainParams
odds = TrainParams.model_construct(None, crop_probability=0.5, expand_probability=0.5, hflip=True)
samples = TrainingDataset(PackedSplit(sys.argv[1], "train"), 48, 0, odds)
context = {"fork": multiprocessing, "forkserver": server_context()}[sys.argv[3]]
loader = worker_batches(samples, TrainingBatchSampler(12, 4, 0, 10**9), (4, 48, 48, 3), 2, 2, context)
next(loader), next(loader)  # one of each worker: both have begun
print(*(p.pid for p in multiprocessing.active_children()), flush=True)
if sys.argv[2] == "raise": raise KeyError("the trainer failed")
for batch in loader: pass
"""


@pytest.mark.parametrize(
    ("end", "method"),
    [
        *(("kill", "fork"), ("raise", "fork"), ("stop", "fork")),
        *(pytest.param(end, "forkserver", marks=pytest.mark.slow) for end in ("kill", "raise", "stop")),
    ],
)
def test_no_worker_outlives_the_trainer(samples, end, method):
    """Nor one that is stopped, which keeps others from learning of the trainer's end: it has the pipes' other ends."""
    command = [sys.executable, "-c", ORPHANS, str(samples.split.folder), end, method]
    trainer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids = [int(word) for word in trainer.stdout.readline().split()]
    assert len(pids) == 2
    if end == "stop":
        os.kill(pids[1], signal.SIGSTOP)
    if end != "raise":
        trainer.kill()
    trainer.wait(60)
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}/fd/0") for pid in pids):  # noqa: PTH110
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_signals_to_the_whole_group_are_the_trainers_alone(samples):
    """The fork server would end by one, and all workers with it."""
    command = [sys.executable, "-c", GROUP, str(samples.split.folder)]
    trainer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert trainer.communicate(timeout=60)[0] == "1 came last, then 20 batches\n" and trainer.returncode == 0


GROUP = """
import os, signal, sys, time
from m2det.data import PackedSplit, TrainingBatchSampler, TrainingDataset
from m2det.data.dataloader import server_context, worker_batches
from m2det.config import TrainParams
from m2det.distributed.stop import StopRequest
odds = TrainParams.model_construct(None, crop_probability=0.5, expand_probability=0.5, hflip=True)
samples = TrainingDataset(PackedSplit(sys.argv[1], "train"), 48, 0, odds)
loader = worker_batches(samples, TrainingBatchSampler(12, 4, 0, 21), (4, 48, 48, 3), 2, 2, server_context())
with StopRequest() as stop:
    next(loader)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.killpg(0, number)
        time.sleep(0.2)
    print(f"{int(stop.requested)} came last, then {len(list(loader))} batches", flush=True)
"""


def test_batches_lie_in_the_same_few_slots(samples):
    for workers in (0, 1):
        places = {b.images.data_ptr() for b in training_loader(samples, order(60), workers, False)}
        assert len(places) <= workers * module.PREFETCH_FACTOR + 2


@pytest.mark.slow
def test_memory_does_not_grow(samples):
    def resident() -> int:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * 4096

    loader = training_loader(samples, order(10**6), 1, False)
    for _ in range(300):
        next(loader)
    before = resident()
    for _ in range(600):
        next(loader)
    assert resident() - before < 4e6
    loader.close()


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Black pictures with a red object of class 1 at the left and a green one of class 2 at the right; the last has
    only one of 3 px."""
    folder = tmp_path_factory.mktemp("coloured")
    images, annotations = [], []
    for i in range(IMAGES):
        picture = np.zeros((200, 300, 3), np.uint8)
        boxes = {1: [20, 60, 100, 80], 2: [180, 60, 100, 80]} if i < IMAGES - 1 else {1: [1, 1, 3, 3]}
        for category, (x, y, w, h) in boxes.items():
            picture[y : y + h, x : x + w, 3 - category] = 180
            box = {"image_id": i, "category_id": category, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            annotations.append(box | {"id": len(annotations)})
        cv2.imwrite(str(folder / f"{i}.jpg"), picture)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 300, "height": 200})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return packed(folder, tmp_path_factory.mktemp("cache") / "c", ImageEncoding())


def test_each_box_is_around_its_object_and_has_its_label_and_colours_change(coloured):
    samples = TrainingDataset(coloured, 96, 3, ODDS)
    alone, mirrored, colours = set[int](), 0, set[tuple]()
    for epoch, index in itertools.product(range(12), range(IMAGES - 1)):
        image, boxes, labels, _ = samples[epoch, index]
        assert len(boxes) == len(labels) > 0
        alone |= {int(labels[0])} if len(labels) == 1 else set()
        if len(labels) == 2:
            mirrored += (boxes[0, 0] < boxes[1, 0]) != (labels[0] == 1)
        for box in boxes:
            x1, y1, x2, y2 = (box * 96).round().astype(int)
            inside = image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].astype(int)
            if inside.size == 0:
                continue
            b, g, r = np.median(inside.reshape(-1, 3), axis=0)
            # the hue turns by at most a tenth of the circle, or channels change places: never black or mean
            assert max(b, g, r) - min(b, g, r) > 40, f"no object within the box: {b, g, r}"
            colours.add((b, g, r))
    assert alone == {1, 2}, "crops leave either object out, and the label goes with it"
    assert mirrored > 10
    assert len(colours) > 50


def test_epochs_and_seeds_differ(coloured):
    samples, other = TrainingDataset(coloured, SIDE, 3, ODDS), TrainingDataset(coloured, SIDE, 4, ODDS)
    differ = [
        [not np.array_equal(samples[0, i][0], x) for x in (samples[1, i][0], other[0, i][0])] for i in range(IMAGES)
    ]
    assert np.mean(differ, axis=0).min() > 0.5
    orders = [TrainingBatchSampler(IMAGES, IMAGES, seed, 2).batch(step) for seed in (3, 4) for step in (0, 1)]
    assert len({tuple(i for _, i in order) for order in orders}) == 4


def test_an_image_of_too_small_objects_is_only_resized(coloured):
    samples, whole = TrainingDataset(coloured, SIDE, 3, ODDS), np.array([1, 1, 3, 3]) / [300, 200, 300, 200]
    for epoch in range(20):
        _, boxes, labels, _ = samples[epoch, IMAGES - 1]
        np.testing.assert_allclose(boxes, whole[None], atol=1e-3)
        assert labels.tolist() == [1]


def test_a_box_on_a_pixel_lost_by_rounding_is_dropped(tmp_path):
    """1282 px decoded at an eighth are 161, of which 160 are used; the box lies on the last."""
    cv2.imwrite(str(tmp_path / "1.jpg"), np.zeros((1282, 1282, 3), np.uint8))
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1280, 100, 2, 30], "area": 60, "iscrowd": 0}
    content = {"images": [{"id": 1, "file_name": "1.jpg", "width": 1282, "height": 1282}], "annotations": [box]}
    (tmp_path / "a.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "thing"}]}))
    samples = TrainingDataset(packed(tmp_path, tmp_path / "c", ImageEncoding()), 100, 0, ODDS)
    for epoch in range(30):
        _, boxes, labels, _ = samples[epoch, 0]
        assert (boxes[:, 2:] > boxes[:, :2]).all() and len(boxes) == len(labels)
