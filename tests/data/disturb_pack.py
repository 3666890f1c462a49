"""Kill packs at random moments and continue them: `python -m tests.data.disturb_pack` (make stress)."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.train.disturb import processes_in

CACHE, UNFINISHED = Path("data/cache"), Path("data/unfinished")
KINDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def make_images(folder: Path, train: int = 6000, val: int = 500) -> Path:
    """A COCO-format data set of noisy JPEGs of 1 to 6 kB: some share LMDB's pages, some have pages of their own."""
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("val", val)):
        (folder / name).mkdir(parents=True)
        images, annotations = [], []
        for i in range(count):
            side = int(rng.integers(24, 80))
            picture = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / name / f"{i}.jpg"), picture)
            images.append({"id": i, "file_name": f"{i}.jpg", "width": side, "height": side})
            annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 15, 15], "area": 225})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "noise"}]}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def working_copy(folder: Path, images: Path, **settings: object) -> Path:
    """A folder in which stage `pack` runs; settings: of section pack."""
    folder.mkdir(parents=True)
    for name in ("m2det", "tasks", "flows", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    entries = {name: [{"annotations": f"{name}.json", "images": name}] for name in ("train", "val")}
    params["data"] |= {"source": "coco", "root": str(images), **entries}
    params["pack"] |= settings
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    assert stage(folder, "data").wait(60) == 0, (folder / "out.txt").read_text()
    return folder


def stage(folder: Path, name: str = "pack", **options: object) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DVC_"))}
    environment |= {"PREFECT_HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"flows.{name}"]
    with (folder / "out.txt").open("a") as out:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, **options)


def finished(folder: Path) -> dict[str, bytes]:
    """Run the stage to its end; the cache's files."""
    assert stage(folder).wait(240) == 0, (folder / "out.txt").read_text()
    assert not list((folder / UNFINISHED).glob("*")), "a finished pack leaves nothing unfinished"
    return {path.name: path.read_bytes() for path in (folder / CACHE).iterdir()}


def disturb(folder: Path, kind: signal.Signals, moment: float, commits: int = 0) -> bool:
    """Run the stage and kill it by `kind` after `moment` seconds and `commits` commits.

    Returns whether it was hit before its end. Asserts that nothing is left of it.
    """
    process = stage(folder)
    time.sleep(moment)
    while (
        process.poll() is None and sum(p.stat().st_size for p in folder.glob(f"{UNFINISHED}/*/*.sums")) < commits * 8000
    ):
        time.sleep(0.002)
    process.send_signal(kind)
    killed = time.monotonic()
    process.wait(60)
    while rest := list(processes_in(folder)):
        assert time.monotonic() < killed + 20, f"{kind.name} after {moment:.2f} s leaves {rest}"
        time.sleep(0.02)
    return process.returncode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=int, default=10, help="(default %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="(default: the clock)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        images = make_images(root / "images", 40_000)  # most of the stage's time is packing
        start = time.monotonic()
        expected = finished(working_copy(root / "undisturbed", images))
        duration = time.monotonic() - start
        rng, hits, continued = random.Random(arguments.seed), 0, 0
        for i in range(arguments.packs):
            folder = working_copy(root / "disturbed", images)
            hits += disturb(folder, KINDS[i % len(KINDS)], rng.uniform(0, duration))
            assert finished(folder) == expected, f"pack {i} of seed {arguments.seed}: other bytes"
            continued += "continues after" in (folder / "out.txt").read_text()
            shutil.rmtree(folder)
    print(
        f"{hits} of {arguments.packs} packs killed before their end (seed {arguments.seed}), "
        f"{continued} of them continued after a commit, all caches byte for byte the undisturbed one"
    )


if __name__ == "__main__":
    main()
