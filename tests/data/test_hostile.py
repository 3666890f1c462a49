"""Damaged and hostile input, full and read-only disks: never a crash, a hang, or words that name no file."""

import copy
import json
import os
import random
import resource
import subprocess
import sys

import cv2
import numpy as np
import pytest

from m2det.data.coco import read_split
from m2det.data.image import decode_bgr
from m2det.data.packing import write_split
from m2det.errors import InputError
from tasks.pack import _decodes, _is_whole
from tests.conftest import ROOT

ODD = [
    *(None, True, "", "x", "\0", "../x", "\ud800", "a" * 5000, [], [1], {}, {"id": 1}, -1, 0, 1.5, 2**31, 2**63),
    *(10**400, -(10**400), 1e308, -1e308, float("nan"), float("inf")),
]
# Python's own files, half written, would outlive the test
OWN = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
VALID = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 48, "height": 32} for i in (1, 2)],
    "annotations": [{"id": i, "image_id": i, "category_id": 7, "bbox": [1, 2, 20, 9], "area": 180} for i in (1, 2)],
    "categories": [{"id": 7, "name": "cat"}],
}


@pytest.fixture
def folder(tmp_path):
    for i in (1, 2):
        picture = np.random.default_rng(i).integers(0, 255, (32, 48, 3), dtype=np.uint8)
        options = [cv2.IMWRITE_JPEG_PROGRESSIVE, i - 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), picture, options)
    return tmp_path


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 30])):
        at, kind = rng.randrange(len(changed)), rng.randrange(5)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at : at + rng.randrange(60)] = b""
        elif kind == 2:
            changed[at:at] = changed[: rng.randrange(60)]
        elif kind == 3:
            changed[at : at + 2] = bytes([0xFF, rng.choice([0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE])])
        else:  # the header, where sizes and tables are
            changed[rng.randrange(min(600, len(changed)))] = rng.choice([0, 1, 255])
        changed = changed or bytearray(b"\xff")
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_a_mutated_jpeg_packs_and_decodes_or_is_named(folder, seed):
    rng = random.Random(seed)
    path = folder / f"{rng.choice([1, 2])}.jpg"
    path.write_bytes(mutated(path.read_bytes(), rng))
    (folder / "a.json").write_text(json.dumps(VALID))
    split = read_split([(folder / "a.json", folder)])
    for name, check in (("whole", _is_whole), ("decodes", _decodes)):
        try:
            write_split(folder, name, split, check)
        except InputError as error:
            assert path.name in str(error) and "\n" not in str(error)
        else:
            for record in split.records:
                try:
                    image = decode_bgr(record.path.read_bytes(), record.file_name)
                except InputError as error:
                    assert record.file_name in str(error) and name == "whole"
                else:
                    assert image.shape == (32, 48, 3) or name == "whole"


@pytest.mark.parametrize("seed", range(200))
def test_a_mutated_annotation_file_is_read_or_named(folder, seed):
    rng = random.Random(seed)
    content = copy.deepcopy(VALID)
    if seed % 4:
        for _ in range(rng.choice([1, 1, 2])):
            table = content[rng.choice(list(VALID))]
            entry = rng.choice(table) if isinstance(table, list) and table else table
            if isinstance(entry, dict) and rng.random() < 0.9:
                entry[rng.choice([*entry, "iscrowd"])] = rng.choice(ODD)
                if "bbox" in entry and isinstance(entry["bbox"], list) and rng.random() < 0.3:
                    entry["bbox"] = [rng.choice([*ODD, 1, 2, 3]) for _ in range(4)]
            else:
                content[rng.choice(list(content))] = rng.choice(ODD)
        data = json.dumps(content).encode()
    else:
        data = mutated(json.dumps(content).encode(), rng)
    (folder / "a.json").write_bytes(data)
    try:
        split = read_split([(folder / "a.json", folder)])
        write_split(folder, "out", split, _decodes)
    except InputError as error:
        assert ("a.json" in str(error) or ".jpg" in str(error) or "image " in str(error)) and "\n" not in str(error)


def test_nesting_without_end_is_named(folder):
    (folder / "a.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"a\.json is no valid JSON"):
        read_split([(folder / "a.json", folder)])


def stage(folder, name, limit=None, **options):
    """Run `python -m flows.NAME` there; limit: most bytes of a file."""
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
    for limit in (5_000, 60_000, 2_000_000, 8_000_000):
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
        for size in (20, 24, 32, 64):
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
