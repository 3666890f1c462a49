"""Damaged and hostile input, full and read-only disks: never a crash, a hang, or words that name no file."""

import copy
import json
import os
import resource
import signal
import subprocess
import sys
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from m2det.config import TrainParams
from m2det.data.dataloader import training_loader
from m2det.data.dataset import TrainingDataset
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sampler import TrainingBatchSampler
from m2det.data.sources.coco import read_split
from m2det.errors import InputError
from tests.conftest import ROOT

# Python's own files, half written, would outlive the test
OWN = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
ODDS = TrainParams.model_construct(None, crop_probability=6 / 7, expand_probability=0.6, hflip=True)
VALID = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 48, "height": 32} for i in (1, 2, 3)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 20, 9], "area": 180},
        {"id": 2, "image_id": 2, "category_id": 7, "bbox": [1, 2, 20, 9]},
    ],
    "categories": [{"id": 7, "name": "cat"}],
}
SECONDS = 30  # for three images of 48x32 px: more is a hang
# the same 100 in every run, so that a change is judged by its own
one_hundred = settings(
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture
def folder(tmp_path):
    """A plain JPEG, a progressive one, and a PNG under a JPEG's name."""
    for i, suffix in enumerate((".jpg", ".jpg", ".png"), 1):
        picture = np.random.default_rng(i).integers(0, 255, (32, 48, 3), dtype=np.uint8)
        options = [cv2.IMWRITE_JPEG_PROGRESSIVE, i - 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2] if suffix == ".jpg" else []
        data = cv2.imencode(suffix, picture, options)[1].tobytes()
        for end in ("jpg", "whole"):
            (tmp_path / f"{i}.{end}").write_bytes(data)
    return tmp_path


@pytest.fixture
def no_hang():
    def hung(*_):
        raise AssertionError(f"still at it after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hung)
    yield partial(signal.alarm, SECONDS)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def train_on(folder, verify) -> list[tuple[int, ...]]:
    """Read, pack with that verification, take a batch from a worker; the images' shape."""
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    for path in cache.iterdir():
        path.unlink()
    split = read_split([(folder / "a.json", folder)])
    finish_cache(cache, split.categories, {"train": write_split(cache, "train", split, verify)})
    packed = PackedSplit(cache, "train")
    loader = training_loader(
        TrainingDataset(packed, 32, 0, ODDS), TrainingBatchSampler(len(packed), len(packed), 0, 1), 1, False
    )
    return [tuple(batch.images.shape) for batch in loader]


PLACES = st.integers(0, 1 << 20)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), PLACES, st.integers(0, 255)),
        st.tuples(st.just("cut"), PLACES, st.integers(1, 400)),
        st.tuples(st.just("again"), PLACES, st.integers(1, 60)),
        st.tuples(st.just("marker"), PLACES, st.sampled_from([0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE])),
        st.tuples(st.just("head"), PLACES, st.sampled_from([0, 1, 255])),
    ),
    min_size=1,
    max_size=20,
)


def changed(data: bytes, changes) -> bytes:
    content = bytearray(data)
    for kind, place, value in changes:
        content = content or bytearray(b"\xff")
        at = place % len(content)
        if kind == "byte":
            content[at] = value
        elif kind == "cut":
            content[at : at + value] = b""
        elif kind == "again":
            content[at:at] = content[:value]
        elif kind == "marker":
            content[at : at + 2] = bytes([0xFF, value])
        else:  # the first 600 bytes, where a JPEG's sizes and tables are
            content[place % min(600, len(content))] = value
    return bytes(content)


@pytest.mark.slow
@one_hundred
@given(number=st.sampled_from([1, 2, 3]), changes=CHANGES)
def test_a_mutated_image_is_trained_on_or_named(folder, no_hang, number, changes):
    """Named by the pack, or where that has read its header alone, by the worker that decodes it."""
    (folder / "a.json").write_text(json.dumps(VALID))
    for i in (1, 2, 3):
        data = (folder / f"{i}.whole").read_bytes()
        (folder / f"{i}.jpg").write_bytes(changed(data, changes) if i == number else data)
    for verify in ("header", "decode"):
        no_hang()
        try:
            assert train_on(folder, verify) == [(3, 3, 32, 32)]
        except InputError as error:
            assert f"{number}.jpg" in str(error) and "\n" not in str(error)
        else:
            # a damaged picture may stay one, of its size
            assert verify == "header" or decode_bgr((folder / f"{number}.jpg").read_bytes(), "").shape == (32, 48, 3)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\0", "../x", "\ud800", "a" * 5000, 2**31, 2**63, 10**400, -(10**400), 1e308, -1e308]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "bbox", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
ENTRIES = [
    *[
        (name, at, key)
        for name, table in VALID.items()
        for at, entry in enumerate(table)
        for key in [*entry, "iscrowd"]
    ],
    *[(name, at, None) for name, table in VALID.items() for at in range(len(table))],
    *[(name, None, None) for name in VALID],
]


def with_values(values) -> bytes:
    content = copy.deepcopy(VALID)
    for (name, at, key), value in values:
        if at is None:
            content[name] = value
        elif key is None and isinstance(content[name], list):
            content[name][at:] = [value]
        elif isinstance(content[name], list) and len(content[name]) > at and isinstance(content[name][at], dict):
            content[name][at][key] = value
    return json.dumps(content).encode()


BBOXES = st.lists(st.integers(-100, 100) | st.floats(), min_size=4, max_size=4)
ANNOTATIONS = st.one_of(
    st.lists(st.tuples(st.sampled_from(ENTRIES), JSON), min_size=1, max_size=3).map(with_values),
    st.lists(st.tuples(st.sampled_from(ENTRIES), BBOXES), min_size=1, max_size=3).map(with_values),
    # the second has no area of its own
    st.tuples(st.sampled_from([0, 1]), BBOXES).map(lambda at: with_values([(("annotations", at[0], "bbox"), at[1])])),
    CHANGES.map(lambda changes: changed(json.dumps(VALID).encode(), changes)),
)


@one_hundred
@given(content=ANNOTATIONS)
@example(content=with_values([(("annotations", 1, "bbox"), [0, 0, 1e7, 1e7])]))  # whose area alone is too large
@example(content=with_values([(("images", 0, "file_name"), "\udcff.jpg")]))
@example(content=with_values([(("categories", 0, "name"), "\ud800")]))
@example(content=with_values([(("images", 0, "width"), 10**9), (("images", 0, "height"), 10**9)]))
def test_a_mutated_annotation_file_is_trained_on_or_named(folder, no_hang, content):
    (folder / "a.json").write_bytes(content)
    no_hang()
    try:
        [(images, *shape)] = train_on(folder, "decode")
        assert images in (1, 2, 3) and shape == [3, 32, 32]
    except InputError as error:
        assert ("a.json" in str(error) or ".jpg" in str(error) or "image " in str(error)) and "\n" not in str(error)


def test_endless_nesting_is_named(folder):
    (folder / "a.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"a\.json is no valid JSON"):
        read_split([(folder / "a.json", folder)])


def stage(folder, name, limit=None, **options):
    """Run `python -m flows.NAME` in the folder; limit: most bytes of a file."""
    command = [sys.executable, "-m", f"flows.{name}"]
    preexec = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    return subprocess.run(
        command, cwd=folder, env=OWN, capture_output=True, text=True, preexec_fn=preexec, check=False, **options
    )


def one_sentence(done, *words):
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and "Traceback" not in done.stderr and len(errors) == 1, done.stderr
    assert all(word in errors[0] for word in words), errors


@pytest.fixture
def project(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    link_code(tmp_path)
    return tmp_path


def link_code(folder):
    for name in ("m2det", "tasks", "flows", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)


@pytest.mark.slow
def test_a_disk_that_is_full_ends_in_one_sentence(project):
    one_sentence(stage(project, "data", limit=2000), "data/coco", "file too large; make room")
    assert stage(project, "data").returncode == 0
    for limit in (60_000, 8_000_000):
        one_sentence(stage(project, "pack", limit=limit), "data/unfinished", "make room")
        assert not (project / "data/cache/manifest.json").exists()


@pytest.mark.slow
def test_small_disks_end_in_one_sentence(project):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(project)], check=False).returncode:
        pytest.skip("only root may mount a small disk to fill")
    try:
        (project / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        link_code(project)
        one_sentence(stage(project, "data"), "data/coco", "no space left on device; make room")
        codes = []
        for size in (20, 32, 64):
            subprocess.run(["mount", "-o", f"remount,size={size}m", str(project)], check=True)
            if not codes:
                assert stage(project, "data").returncode == 0
            done = stage(project, "pack")
            codes.append(done.returncode)
            if done.returncode:
                one_sentence(done, "data/unfinished", "make room")
        assert codes[0] == 1 and codes[-1] == 0
    finally:
        subprocess.run(["umount", "-l", str(project)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "pack"])
def test_a_folder_that_is_read_only_ends_in_one_sentence(project, name):
    if name == "pack":
        assert stage(project, "data").returncode == 0
    mount = f"mount --bind . . && mount -o remount,bind,ro . && cd . && exec {sys.executable} -m flows.{name}"
    command = ["unshare", "-m", "sh", "-c", mount]
    done = subprocess.run(command, cwd=project, env=OWN, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("only root may mount a folder read-only")
    one_sentence(done, "data", "read-only file system")
