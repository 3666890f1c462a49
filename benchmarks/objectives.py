"""Compare the training objectives on `digits`: `python benchmarks/objectives.py [--seeds 49 50 51] [--out FOLDER]`.

Each seed trains twice in one run: the recipe `digits` as it is, and as it was before the objective `aligned`: objective
`multibox`, learning rate 0.04 by steps, detections that score more than 0.05. Everything else is equal: the images and
their augmentation, the initial weights, the epochs, one thread. CPU time is that of a training's process from its first
step to its last, without evaluations. Prints a table of each training, one of means, and writes the learning curves.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from m2det.config import Params, check_params
from m2det.data.sources.coco2014 import SPLITS
from m2det.data.sources.digits import make_digits
from m2det.viz.curves import new_figure, save_figure

BEFORE: dict[str, dict[str, Any]] = {
    "train": {
        "objective": "multibox",
        "lr": 0.04,
        "schedule": "steps",
        "gammas": [1.0, 0.1, 0.01],
        "milestones": [0.8, 0.93],
    },
    "evaluate": {"score_threshold": 0.05},
}
WAYS = {"multibox": BEFORE, "aligned": {}}
SCORES = ("AP", "AP50", "AP75")
EVALUATIONS = 12


class Row(NamedTuple):
    """One training: which, its CPU seconds, its metrics, and AP by epoch."""

    way: str
    seed: int
    cpu_seconds: float
    metrics: dict[str, float]
    ap_by_epoch: dict[int, float]


def main() -> None:
    """Train all, print the tables, and write the curves."""
    parser = argparse.ArgumentParser(description="Compare the training objectives on `digits`.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[49, 50, 51], help="(default 49 50 51)")
    parser.add_argument("--epochs", type=int, default=24, help="of each training (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("objectives"), help="new folder (default %(default)s)")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"--out {arguments.out} exists; give a new folder")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by each training's process when it begins
    from train_digits import pack

    folder = arguments.out.resolve()
    make_digits(folder / "digits")
    pack(folder / "digits", folder / "cache")
    cases = [(way, seed) for seed in arguments.seeds for way in WAYS]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, context, max_tasks_per_child=1) as pool:
        rows = list(pool.map(partial(train_and_score, folder, arguments.epochs), *zip(*cases, strict=True)))
    (folder / "rows.json").write_text(json.dumps([row._asdict() for row in rows]))
    draw_curves(folder / "curves.png", rows)
    print(table(rows))


def parameters_of(way: str, epochs: int, seed: int) -> Params:
    """Return the parameters of one training."""
    from train_digits import recipe

    values = recipe(epochs, seed, evaluations=EVALUATIONS).model_dump()
    for section, changes in WAYS[way].items():
        values[section] |= changes
    return check_params(values, f"the recipe digits with {way}")


def train_and_score(folder: Path, epochs: int, way: str, seed: int) -> Row:
    """Train once, in a process of its own, and score."""
    import torch
    from train_digits import detect_val, train_m2det

    from m2det.evaluate import coco_metrics

    torch.set_num_threads(1)
    params = parameters_of(way, epochs, seed)
    sys.stdout = sys.stderr  # the training's log
    trained = train_m2det(params, folder / "cache")
    file = folder / f"{way}-{seed}.json"
    file.write_text(json.dumps(detect_val(trained.model, params, folder / "cache")))
    metrics = coco_metrics(folder / "digits" / SPLITS["val"][0][0], file)
    return Row(way, seed, trained.cpu_seconds, {name: metrics[name] for name in SCORES}, trained.ap_by_epoch)


def table(rows: list[Row]) -> str:
    """Return the trainings and their means in Markdown."""
    lines = ["| objective | seed | CPU s | AP | AP50 | AP75 |", "|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: (list(WAYS).index(row.way), row.seed)):
        scores = " | ".join(f"{row.metrics[name]:.4f}" for name in SCORES)
        lines.append(f"| {row.way} | {row.seed} | {row.cpu_seconds:.0f} | {scores} |")
    for way in WAYS:
        own = [row for row in rows if row.way == way]
        scores = " | ".join(f"**{statistics.mean(row.metrics[name] for row in own):.4f}**" for name in SCORES)
        lines.append(f"| {way} | mean | {statistics.mean(row.cpu_seconds for row in own):.0f} | {scores} |")
    return "\n".join(lines)


def draw_curves(path: Path, rows: list[Row]) -> None:
    """Draw AP by epoch of every training, one color per objective."""
    figure, axes = new_figure()
    colors = dict(zip(WAYS, ("tab:gray", "tab:blue"), strict=True))
    for number, row in enumerate(rows):
        first = number == [other.way for other in rows].index(row.way)
        points = sorted(row.ap_by_epoch.items())
        label = f"{row.way}, {sum(other.way == row.way for other in rows)} seeds" if first else None
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, color=colors[row.way], label=label)
    axes.set(xlabel="epoch", ylabel="AP on the validation images", ylim=(0, 1))
    axes.legend(loc="lower right")
    axes.set_title("AP of the recipe `digits` by objective")
    save_figure(figure, path)


if __name__ == "__main__":
    main()
