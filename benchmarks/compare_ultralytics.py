"""Compare a training on `digits` with YOLOv8n's at equal CPU time: `python benchmarks/compare_ultralytics.py PYTHON`.

PYTHON is the Python of a virtual environment with ultralytics, which this process neither imports nor needs. YOLOv8n
trains first, for --epochs. One epoch of the recipe `digits` is timed, and the recipe trains, its whole schedule
included, for as many epochs as fit in the CPU time that YOLOv8n took. CPU time is that of all threads of a process
from its first training step to its last. It includes reading images and augmentation, but no evaluation, and not the
building of the network. Other processes disturb it less than wall time, but they do: leave the machine idle.

Equal on both sides: images, split and labels (crowds are not trained on); random initial weights; the side of the
input; images of a batch (16); torch's threads, with data loaded in the training process; no flips; the images that are
detected on, several classes of a box allowed, at most 100 detections of an image; the scorer and its ground truth,
crowds included.

Not equal, in favor of this project:
- The recipe's weight decay and EMA were chosen by AP50 on the very images that score here. YOLOv8n has few settings
  for a short training (SHORT in train_yolov8n.py), the better of two tries by AP on the same images; all others are
  ultralytics' defaults, which are meant for COCO at 640 px and long trainings.
- Mosaics, until 10 epochs before the end, scaling by 0.5 to 1.5 and its other augmentation pay off in long trainings,
  and its EMA, which averages more steps as the training goes on, averages few in a short one.
- On a CPU with avx512_bf16 this project computes in bfloat16 by autocast; ultralytics computes in float32 on any CPU.
- ultralytics saves weights as float16 and detects with what it saved; this project keeps float32.
- m2det-tiny was made for 96 px. YOLOv8n's strides of 8, 16 and 32 leave 12, 6 and 3 cells a side.

Not equal, in favor of YOLOv8n:
- It keeps detections that score above 0.001, as when ultralytics validates; the recipe keeps those above 0.01.
- This project's time includes a checkpoint per epoch; YOLOv8n writes its only one after the last.

Not equal, in favor of either: optimizer, loss, NMS, number of parameters, overhead of Python. One run each says little
about differences of a point or two of AP: repeat with other seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import torch
from train_digits import detect_val, pack, recipe, train_m2det
from yolo_data import to_coco_results, write_yolo_data

from m2det.data.sources.coco2014 import SPLITS
from m2det.data.sources.digits import make_digits
from m2det.evaluate import coco_metrics

HAS_ULTRALYTICS = "import sys, importlib.util; sys.exit(importlib.util.find_spec('ultralytics') is None)"
STRIDE = 32  # YOLOv8n's largest: ultralytics would round other sides up


def main() -> None:
    """Train both and print the table."""
    parser = argparse.ArgumentParser(description="Train YOLOv8n and m2det-tiny on `digits` at equal CPU time.")
    parser.add_argument("python", metavar="PYTHON", help="of a virtual environment with ultralytics")
    parser.add_argument("--epochs", type=int, default=20, help="of YOLOv8n (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of both trainings (default %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="side of the input, px (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on both sides (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="new folder to keep data and detections in")
    arguments = parser.parse_args()
    if arguments.epochs < 1 or arguments.threads < 1 or arguments.seed < 0:
        parser.error("--epochs and --threads are at least 1, --seed at least 0")
    if arguments.size < STRIDE or arguments.size % STRIDE:
        parser.error(f"--size {arguments.size}: YOLOv8n takes multiples of {STRIDE} px")
    if not has_ultralytics(arguments.python):
        parser.error(
            f"{arguments.python} is no Python with ultralytics; install it in a virtual environment of its own "
            "(`python3 -m venv FOLDER`, `FOLDER/bin/python -m pip install ultralytics`) and give FOLDER/bin/python"
        )
    if arguments.out and arguments.out.exists():
        parser.error(f"--out {arguments.out} exists; give a new folder")
    with tempfile.TemporaryDirectory() as temporary:
        print(compare(arguments, (arguments.out or Path(temporary)).resolve()))


def has_ultralytics(python: str) -> bool:
    """Return whether the program is a Python that finds ultralytics."""
    try:
        return subprocess.run([python, "-c", HAS_ULTRALYTICS], check=False).returncode == 0
    except OSError:
        return False


def compare(arguments: argparse.Namespace, folder: Path) -> str:
    """Make the data in the folder, train and score both, and return the table."""
    root, cache = folder / "digits", folder / "cache"
    make_digits(root)
    write_yolo_data(root)
    pack(root, cache)
    truth = root / SPLITS["val"][0][0]
    yolo = train_yolov8n(arguments, root)
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(0)  # as ultralytics does
    one_epoch = train_m2det(recipe(1, arguments.seed, arguments.size), cache)
    params = recipe(max(1, round(yolo["cpu_seconds"] / one_epoch.cpu_seconds)), arguments.seed, arguments.size)
    ours = train_m2det(params, cache)
    parameters = sum(p.numel() for p in ours.model.parameters())
    sides = (
        (
            f"YOLOv8n, ultralytics {yolo['version']}",
            arguments.epochs,
            yolo["cpu_seconds"],
            to_coco_results(yolo["detections"], truth),
            yolo["parameters"],
        ),
        (
            f"{params.model.name}, this project",
            params.epochs,
            ours.cpu_seconds,
            detect_val(ours.model, params, cache),
            parameters,
        ),
    )
    rows = [
        "| who | epochs | CPU seconds of training | AP | AP50 | AP75 | parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for who, epochs, cpu_seconds, results, count in sides:
        file = folder / f"{who.split(',')[0]}.json"
        file.write_text(json.dumps(results))
        metrics = coco_metrics(truth, file)
        scores = " | ".join(f"{metrics[name]:.3f}" for name in ("AP", "AP50", "AP75"))
        rows.append(f"| {who} | {epochs} | {cpu_seconds:.0f} | {scores} | {count:,} |")
    return "\n".join(rows)


def train_yolov8n(arguments: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Return what train_yolov8n.py reports, run by PYTHON. Exits where that fails."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(arguments.threads),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str(root.parent),  # the user's own settings of ultralytics stay as they are
    }
    program = Path(__file__).with_name("train_yolov8n.py")
    options = [str(getattr(arguments, name)) for name in ("epochs", "seed", "size", "threads")]
    if subprocess.run([arguments.python, program, root, *options], env=environment, check=False).returncode:
        sys.exit("the training of YOLOv8n failed, see above")
    report: dict[str, Any] = json.loads((root / "yolov8n.json").read_text())
    return report


if __name__ == "__main__":
    main()
