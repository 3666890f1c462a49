"""Learn 16 photographs by heart: `python benchmarks/photos.py ROOT [--out FOLDER] [--epochs N]`.

ROOT holds COCO 2014: annotations/instances_train2014.json and images/train2014. The 16 photographs are the first by id
that have boxes and no crowd region. The stages annotations, data, pack, weights, train and evaluate run on them as
`dvc repro` runs them, with all of COCO's classes and m2det-tiny at 320 px; training and validation images are the same.
So AP says nothing about other photographs: AP50 near 1 says that data, network, loss, optimizer, detection and scoring
fit together. To that end samples are augmented in their colors only, and weights do not decay.

FOLDER, a new one, is a project like this one: its results/ has metrics, pictures and curves.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from m2det.config import check_params
from m2det.config.recipes import read_recipe
from m2det.config.schema import defaults
from m2det.data.sources.coco2014 import SPLITS

PROJECT = Path(__file__).resolve().parents[1]
STAGES = ("annotations", "data", "pack", "weights", "train", "evaluate")
PHOTOS = 16
SOURCE = {"annotations": "annotations.json", "images": "images"}
CHANGES: dict[str, dict[str, Any]] = {  # of the recipe own
    "data": {"source": "coco", "root": "photos", "train": [SOURCE], "val": [SOURCE]},
    # 320 px, and priors from 13 px on: COCO has many small boxes
    "model": {"name": "m2det-tiny", "overrides": {"size": 320, "sizes": [0.04, 0.1, 0.25, 0.55, 0.95]}},
    "run": {"workers": 0},
    "weights": {"source": "random"},
    "train": {
        "batch_size": 4,
        "microbatch": 4,
        "lr": 0.002,
        "lr_batch_size": 4,
        "weight_decay": 0.0,
        "weight_decay_norm_bias": True,
        "ema_decay": 0.99,
        "crop_probability": 0.0,
        "expand_probability": 0.0,
        "hflip": False,
        "evaluate_every": 10,
        "keep": "final",
        "patience": 0,
    },
}


def main() -> None:
    """Make the project, run its stages, and print the metrics."""
    parser = argparse.ArgumentParser(description=f"Train on {PHOTOS} photographs of COCO 2014 and detect on the same.")
    parser.add_argument("root", type=Path, help="folder with annotations/ and images/train2014/")
    parser.add_argument("--out", type=Path, default=Path("photos"), help="new folder (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=150, help="of the training (default %(default)s)")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"--out {arguments.out} exists; give a new folder")
    make_project(arguments.out, arguments.root, arguments.epochs)
    for stage in STAGES:
        subprocess.run([sys.executable, "-m", f"flows.{stage}"], cwd=arguments.out, check=True)
    print((arguments.out / "results/metrics.json").read_text())


def make_project(folder: Path, root: Path, epochs: int) -> None:
    """Write the photographs and params.yaml into a new folder, beside links to this project's code."""
    annotations, images = SPLITS["train"][0]
    content = choose(json.loads((root / annotations).read_text()))
    (folder / "photos/images").mkdir(parents=True)
    (folder / "photos/annotations.json").write_text(json.dumps(content))
    for image in content["images"]:
        shutil.copy(root / images / image["file_name"], folder / "photos/images")
    for name in ("m2det", "tasks", "flows", "dvc.yaml"):
        (folder / name).symlink_to(PROJECT / name)
    values = read_recipe("own")[1] | {"data": defaults()["data"], "epochs": epochs}
    for section, changes in CHANGES.items():
        values[section] |= changes
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(check_params(values, "the recipe of photos.py").model_dump(), file)


def choose(content: dict[str, Any]) -> dict[str, Any]:
    """Return the annotations of the first images by id that have boxes and no crowd region; all categories stay."""
    boxes: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        boxes.setdefault(annotation["image_id"], []).append(annotation)
    fitting = [id for id, own in boxes.items() if not any(annotation["iscrowd"] for annotation in own)]
    ids = sorted(fitting)[:PHOTOS]
    return {
        "images": [image for image in content["images"] if image["id"] in ids],
        "annotations": [annotation for id in ids for annotation in boxes[id]],
        "categories": content["categories"],
    }


if __name__ == "__main__":
    main()
