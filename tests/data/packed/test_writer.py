"""Packing by many threads, or interrupted and continued, gives the bytes of one undisturbed thread."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from m2det.data import inspection
from m2det.data.jpeg import decode_bgr
from m2det.data.ordered_map import ordered_map
from m2det.data.packed import lmdb_writer
from m2det.data.packed.encoding import ImageEncoding
from m2det.data.packed.lmdb_writer import BYTES_PER_CHUNK, RECORDS_PER_COMMIT
from m2det.data.packed.writer import finish_cache, require_room, write_split
from m2det.data.sources.coco import read_split
from m2det.errors import InputError
from m2det.files.locks import locked
from tests.conftest import ROOT
from tests.data.disturb_pack import UNFINISHED, disturb, finished, make_images, stage, working_copy


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), 2 * RECORDS_PER_COMMIT + 300, 20)


@pytest.fixture(scope="module")
def split(images):
    return read_split([(images / "train.json", images / "train")])


def pack(folder, split, **options):
    folder.mkdir(exist_ok=True)
    finish_cache(folder, split.categories, {"train": write_split(folder, "train", split, "header", **options)})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("encoding", [ImageEncoding(), ImageEncoding("jpeg", 40, 80)], ids=["original", "jpeg"])
def test_one_and_three_threads_write_the_same_bytes(split, tmp_path, encoding):
    alone = pack(tmp_path / "one", split, encoding=encoding)
    assert pack(tmp_path / "three", split, encoding=encoding, threads=3) == alone


def test_memory_that_is_used_again_leaves_no_trace_in_the_bytes(images, tmp_path):
    """Stage `pack` keeps what was freed, full of other images: a program that does, and this one, which does not."""
    program = """
import sys
from pathlib import Path
from m2det.data import read_split, write_split
from m2det.distributed.lifetime import keep_freed_memory
keep_freed_memory()
images, folder = map(Path, sys.argv[1:])
used = [bytes([255]) * (1 << 20) for _ in range(32)]
del used
split = read_split([(images / "train.json", images / "train")])
for name in ("first", "second"):
    (folder / name).mkdir()
    write_split(folder / name, "train", split, "header", threads=2)
"""
    subprocess.run([sys.executable, "-c", program, images, tmp_path], cwd=ROOT, check=True, capture_output=True)
    expected = pack(tmp_path / "here", read_split([(images / "train.json", images / "train")]))["train.lmdb"]
    assert [(tmp_path / name / "train.lmdb").read_bytes() == expected for name in ("first", "second")] == [True, True]


class Interruption:
    """Stands in for the check of an image: keeps the ids it is called with, and fails at the call number `at`."""

    def __init__(self, monkeypatch) -> None:
        self.at, self.ids = 0, []
        monkeypatch.setitem(inspection.CHECKS, "header", self)

    def __call__(self, _data, name, *_size) -> None:
        self.ids.append(int(name.split()[1]))
        if len(self.ids) == self.at:
            raise InputError("enough")


def test_an_interrupted_pack_continues_with_the_same_bytes_and_no_record_twice(split, tmp_path, monkeypatch):
    undisturbed, check = pack(tmp_path / "undisturbed", split), Interruption(monkeypatch)
    check.at = 2 * RECORDS_PER_COMMIT + 200
    with pytest.raises(InputError, match="enough"):
        pack(tmp_path / "cache", split)
    check.at, check.ids = 0, []
    assert pack(tmp_path / "cache", split) == undisturbed
    assert check.ids == [record.image_id for record in split.records[2 * RECORDS_PER_COMMIT :]]


def test_an_error_in_a_thread_is_raised_as_it_is(split, tmp_path):
    image = split.records[1234]
    broken = replace(split, records=[*split.records[:1234], replace(image, width=1), *split.records[1235:]])
    with pytest.raises(InputError, match=rf"^image 1234 \({image.path}\) is \d+x\d+ px, its annotation says 1x\d+"):
        pack(tmp_path / "cache", broken, threads=3)


def test_commits_by_size_are_continued_and_only_the_cache_is_left(split, tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_writer, "BYTES_PER_COMMIT", 1 << 20)
    undisturbed, check = pack(tmp_path / "undisturbed", split), Interruption(monkeypatch)
    assert sorted(undisturbed) == ["manifest.json", "train.arrow", "train.json", "train.lmdb"]
    check.at = 900
    with pytest.raises(InputError, match="enough"):
        pack(tmp_path / "cache", split)
    check.at, check.ids = 0, []
    assert pack(tmp_path / "cache", split) == undisturbed
    assert 0 < check.ids[0] < 900, "of a commit before record 1000"


def test_a_damaged_unfinished_pack_says_what_to_delete(split, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/train.lmdb").write_bytes(bytes(1 << 16))
    (tmp_path / "cache/train.sums").write_bytes(bytes(800))
    with pytest.raises(InputError, match=r"train\.lmdb is damaged .*; delete .*cache and give the command again"):
        pack(tmp_path / "cache", split)


@pytest.mark.parametrize(("cost", "max_begun"), [(1, 10), (100, 3)])
def test_tasks_in_flight_are_bounded(cost, max_begun):
    """By their cost, 10 together, or by one a thread."""
    started = []
    results = ordered_map(range(100), started.append, 3, lambda _: cost, 10)
    next(results)
    time.sleep(0.1)
    assert len(started) <= max_begun + 1
    results.close()
    assert len(started) <= max_begun + 1, "closed: no further task begins"


def test_too_little_room_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    require_room(tmp_path, BYTES_PER_CHUNK)
    (tmp_path / "half").write_bytes(bytes(1 << 20))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    require_room(tmp_path, 2 << 20)  # half of that is used already
    with pytest.raises(InputError, match=r"this needs \d+ MB more, its disk has \d+ MB; make room"):
        require_room(tmp_path, 1 << 60)


def test_a_second_pack_is_refused(images, tmp_path):
    folder = working_copy(tmp_path / "copy", images)
    process = stage(folder)
    while not (locks := [lock for lock in (folder / UNFINISHED).glob("*/lock") if lock.read_text()]):
        assert process.poll() is None, (folder / "out.txt").read_text()
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(InputError, match=f"the process {process.pid} works in"), locked(locks[0].parent):
        pass
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_pack_continues_to_the_same_bytes(images, tmp_path, number):
    """In its second commit; `make stress` has ten moments at random."""
    expected = finished(working_copy(tmp_path / "undisturbed", images))
    folder = working_copy(tmp_path / "copy", images)
    assert disturb(folder, number, 0.0, commits=2), "the pack was over before"
    assert finished(folder) == expected
    out = (folder / "out.txt").read_text()
    assert "continues after" in out and "Traceback" not in out


@pytest.mark.slow
def test_a_changed_parameter_starts_anew_and_a_pack_on_a_full_disk_continues(images, tmp_path):
    folder = working_copy(tmp_path / "copy", images)
    max_bytes = 6 << 20  # of a file: more than the first commit, less than all
    full = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    assert stage(folder, preexec_fn=full).wait(60) == 1
    out = (folder / "out.txt").read_text()
    assert out.count("error: ") == 1 and "make room" in out and "Traceback" not in out
    [first] = (folder / UNFINISHED).glob("*")
    image = images / "train/7.jpg"
    time_ns = image.stat().st_mtime_ns
    os.utime(image, ns=(time_ns, time_ns + 1))  # as one that was replaced by another of its size
    assert stage(folder, preexec_fn=full).wait(60) == 1
    os.utime(image, ns=(time_ns, time_ns))
    assert "continues after" not in (folder / "out.txt").read_text()
    [other] = set((folder / UNFINISHED).glob("*")) - {first}
    shutil.rmtree(other)
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("verify: auto", "verify: header"))
    assert stage(folder).wait(60) == 0
    out = (folder / "out.txt").read_text()
    assert "continues after" not in out and "is an unfinished pack with other data, settings or code" in out
    (folder / "params.yaml").write_text(text)
    cache = finished(folder)
    assert f"continues after {RECORDS_PER_COMMIT} of" in (folder / "out.txt").read_text()
    assert cache == finished(working_copy(tmp_path / "undisturbed", images))
    assert np.frombuffer(cache["train.lmdb"], np.uint8).size > max_bytes


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_a_side_that_a_cache_cannot_hold_is_named(kind):
    strip = cv2.imencode(".png", np.zeros((1, 65_600, 3), np.uint8))[1].tobytes()
    with pytest.raises(InputError, match=r"^strip has a side of 65600 px, 65500 is the most; set pack.side"):
        ImageEncoding(kind, 0, 90).encode(strip, "strip")
    assert decode_bgr(ImageEncoding(kind, 640, 90).encode(strip, "strip"), "strip").shape == (1, 640, 3)
