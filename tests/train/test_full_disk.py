"""A full disk in training and evaluation: one sentence with path and bytes, then it goes on."""

import logging
import os
import re
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from m2det.errors import InputError
from m2det.files.torch_file import save_plain
from m2det.files.whole import replacing, temporary_folder, write_whole
from m2det.model import build_model
from m2det.model.model_file import save_trained
from m2det.train.logger import write_curves
from m2det.viz.curves import new_figure, save_figure, write_precision_recall
from tests.train.disturb import MODEL, UNFINISHED, finished, stage, working_copy
from tests.training import AfterStep, run, settings

WORDS = r"(file too large|no space left on device); it takes [\d,]+ bytes, the disk has [\d,]+; make room, then give"


@contextmanager
def files_up_to(length):
    """As on a full disk, no file of this process gets longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 8_000_000])
def test_a_training_ends_in_one_sentence_and_continues_when_there_is_room(material, tmp_path, length):
    whole = run(material, tmp_path / "whole", settings(epochs=2))
    fill = AfterStep(lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (length, resource.RLIM_INFINITY)), 4)
    with files_up_to(resource.RLIM_INFINITY), pytest.raises(InputError) as error:
        run(material, tmp_path, settings(epochs=2, save_every=1, log_every=100), fill)
    assert error.match(
        rf"^{tmp_path}/state/step-000000004\.pt: {WORDS} the same command again; it continues from step 3$"
    )
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["step-000000002.pt", "step-000000003.pt"]
    resumed = run(material, tmp_path, settings(epochs=2))
    wanted = whole.model.state_dict()
    assert resumed.rows == whole.rows
    assert all(torch.equal(value, wanted[key]) for key, value in resumed.model.state_dict().items())


def test_the_log_is_on_the_same_disk(material, tmp_path, caplog):
    caplog.set_level(logging.INFO, "m2det")  # as stages have it: the loggers' lines are the first in the file
    with files_up_to(20), pytest.raises(InputError, match=rf"^{tmp_path}/log\.txt: file too large; make room"):
        run(material, tmp_path, settings(epochs=1))


CARD = {"model": "m2det-tiny", "overrides": {}, "classes": ["a"], "category_ids": [1]}
CURVES = dict.fromkeys(("a", "b"), np.zeros(101))
WRITERS = {
    "model": lambda path: save_trained(path, build_model("m2det-tiny", 1), CARD),
    "original": lambda path: save_plain(path, {"a": torch.zeros(100_000)}),
    "table": lambda path: write_curves(path, [{"epoch": i} for i in range(9999)]),
    "curve": lambda path: write_precision_recall(path, CURVES),
    "picture": lambda path: save_figure(new_figure()[0], path),
    "text": lambda path: write_whole(path, "text" * 1000),
}


@pytest.mark.parametrize("what", WRITERS)
def test_each_writer_leaves_what_was_there(tmp_path, what):
    (tmp_path / "file").write_text("before")
    with files_up_to(1000), pytest.raises(InputError, match=rf"^{tmp_path}/file: {WORDS} the same command again$"):
        WRITERS[what](tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "before"
    WRITERS[what](tmp_path / "file")
    assert (tmp_path / "file").stat().st_size > 1000


def test_room_is_looked_for_before_the_first_byte(tmp_path):
    words = "no space left on device; it takes 1,000,000,000,000,000,000 bytes"
    with pytest.raises(InputError, match=words), replacing(tmp_path / "new/file", 10**18):
        raise AssertionError("written to")
    assert not list((tmp_path / "new").iterdir())


def test_what_interrupts_leaves_nothing_half_written(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_no_room_for_temporary_files_is_one_sentence(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    with files_up_to(0), pytest.raises(InputError, match="make room in one of them, or set TMPDIR"), temporary_folder():
        pass


@pytest.fixture
def small_disk(material, tmp_path):
    """A working copy on a disk of its own, whose size in MB can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk to fill")

    def resize(megabytes):
        subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(folder)], check=True)

    try:
        yield working_copy(folder / "copy", material), resize
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def last_line(folder, process):
    assert process.wait(240) == 1, (folder / "out.txt").read_text()
    return (folder / "out.txt").read_text().splitlines()[-1]


def evaluate(folder):
    command = [sys.executable, "-m", "flows.evaluate"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_small_disk_ends_with_the_undisturbed_bytes(material, tmp_path, small_disk):
    undisturbed = finished(shorten(working_copy(tmp_path / "undisturbed", material)))
    folder, resize = small_disk
    shorten(folder)
    resize(36)
    line = last_line(folder, stage(folder))
    assert line.startswith(f"error: {folder}/{UNFINISHED}/") and "step-000000003.pt: no space left" in line
    assert re.search(WORDS, line) and line.endswith("it continues from step 2")
    assert not list(folder.glob("models/**/*.tmp"))
    resize(200)
    assert finished(folder) == undisturbed
    for room in (0, 1 << 16):
        leave(folder / "filler", room)
        done = evaluate(folder)
        sentence = done.stderr.splitlines()[-1]  # behind the progress bar
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert sentence.startswith("error: results/") and re.search(WORDS, sentence)
        assert not list((folder / "results").rglob("*.tmp"))
    (folder / "filler").unlink()
    done = evaluate(folder)
    assert done.returncode == 0 and (folder / "results/pictures/labels.png").exists(), done.stderr
    assert (folder / MODEL).read_bytes() == undisturbed[0]


def shorten(folder):
    """One process, four steps."""
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["run"]["processes"] = 1
    params["train"] |= {"max_steps": 4, "batch_size": 4, "microbatch": 4}
    yaml.dump(params, folder / "params.yaml")
    return folder


def leave(filler, room):
    """Fill the disk up to `room` bytes."""
    filler.unlink(missing_ok=True)
    free = shutil.disk_usage(filler.parent).free
    filler.write_bytes(bytes(max(free - room, 0)))
