"""Mutated YOLO label files and data.yaml: converted, or named in one line; never a crash or a hang."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from m2det.data.sources.coco import read_split
from m2det.data.sources.tree import Tree
from m2det.data.sources.yolo import find_yolo
from m2det.data.sources.yolo_labels import read_labels
from m2det.errors import InputError

WIDTH, HEIGHT = 48, 32
LABELS = b"0 0.5 0.5 0.25 0.5\n1 0.125 0.25 0.1 0.1\r\n0 0.1 0.1 0.4 0.1 0.4 0.6\n"
YAML = b"""path: .
train: images/train
val: [images/val]
test:
nc: 2
names:
  0: cat
  1: "dog"
kpt_shape:
"""
PLACES = st.integers(0, 1 << 20)
BYTES = st.sampled_from(
    [b"-", b".", b"e", b"\n", b" ", b"9", b"\0", b"\xff", b"nan", b"\x85", b"\xe2\x80\xa8", b"1e400"]
)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), PLACES, BYTES | st.binary(min_size=1, max_size=3)),
        st.tuples(st.just("cut"), PLACES, st.integers(1, 40)),
        st.tuples(st.just("again"), PLACES, st.integers(1, 60)),
    ),
    min_size=1,
    max_size=8,
)
WORDS = st.sampled_from(
    ("../..", "/etc", "/", "~", "images", "images/train", "null", "[]", "{}", "[[1]]", "0", "-1", "1e9", "yes", "&a",
     "*a", "2026-13-01", "{0: a}", "[]]", '"\\u0000"', '"\\ud800"', "!!python/object:os.system x", "[17, 3]",
     "x" * 2000)
)  # fmt: skip
LINES = st.lists(st.tuples(st.integers(0, 8), WORDS), min_size=1, max_size=3)
# the same ones in every run, so that a change is judged by its own
reproducible = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def changed(data: bytes, changes) -> bytes:
    content = bytearray(data)
    for kind, place, value in changes:
        at = place % (len(content) + 1)
        if kind == "put":
            content[at : at + 1] = value
        elif kind == "cut":
            content[at : at + value] = b""
        else:
            content[at:at] = content[:value]
    return bytes(content)


def with_lines(lines) -> bytes:
    """data.yaml with other values of its keys."""
    content = YAML.decode().splitlines()
    for at, value in lines:
        content[at] = content[at].split(":")[0] + ": " + value
    return "\n".join(content).encode()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        picture = np.random.default_rng(len(split)).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        (root / f"images/{split}/a.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
        (root / f"labels/{split}/a.txt").write_bytes(LABELS)
    (root / "data.yaml").write_bytes(YAML)
    return root


def convert(root, target):
    """Convert and read as training does; each split's number of images."""
    pairs = find_yolo(Tree(root)).convert(target, 0.5).pairs
    return {
        name: len(read_split([(target / file, root / folder) for file, folder in each]).records)
        for name, each in pairs.items()
    }


@pytest.mark.slow
@settings(reproducible, max_examples=300)
@given(changes=CHANGES, keypoints=st.sampled_from([0, 0, 6]))
@example(changes=[("put", 0, b"\xff\xfe")], keypoints=0)
@example(changes=[("again", 0, 60)] * 3, keypoints=0)
def test_a_mutated_label_file_is_read_or_named(changes, keypoints):
    kinds = Counter()
    try:
        boxes = read_labels(changed(LABELS, changes), "labels/train/a.txt", {0: "cat", 1: "dog"}, keypoints, kinds)
    except InputError as error:
        assert str(error).startswith("labels/train/a.txt") and "\n" not in str(error) and len(str(error)) < 400
        return
    for box in boxes:
        assert box.label in (0, 1) and all(-0.5 <= value <= 1.5 for value in box[1:])
        assert box.x1 <= box.x2 and box.y1 <= box.y2
    json.dumps(boxes, allow_nan=False)
    assert sum(kinds.values()) <= len(boxes)


@pytest.mark.slow
@settings(reproducible, max_examples=200)
@given(content=st.one_of(CHANGES.map(lambda changes: changed(YAML, changes)), LINES.map(with_lines)))
@example(content=b"names: &a [*a]\n")
@example(content=b"names:\n" + b"  - " * 3000)
@example(content=b"names: [cat, dog]\ntrain: ../../../../../../etc\n")
def test_a_mutated_data_yaml_is_read_or_named(root, tmp_path, content):
    (root / "data.yaml").write_bytes(content)
    try:
        counts = convert(root, tmp_path / "data")
    except InputError as error:
        assert str(root) in str(error) and "\n" not in str(error)
    else:
        assert counts["train"] in (1, 2) and counts["val"] in (1, 2)


def test_a_hostile_list_of_images_is_named(root, tmp_path):
    (root / "data.yaml").write_bytes(YAML.replace(b"images/train", b"list.txt"))
    for line in (
        b"../" * 2000,
        b"a/" * 100_000,
        b"\0",
        b"\xff",
        b"images/train",
        b"/etc/passwd",
        b"images/train/../../data.yaml/x",
    ):
        (root / "list.txt").write_bytes(b"images/train/a.jpg\n" + line + b"\n")
        with pytest.raises(InputError, match=r"list\.txt(, line 2| is no text)"):
            convert(root, tmp_path / "data")
