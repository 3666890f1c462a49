"""Compare evaluations in float32, bfloat16 and float16: `python benchmarks/evaluation.py [--epochs 24] [--seed 49]`.

Trains the recipe `digits` once on one CPU thread and keeps the weights (averaged by EMA) of every evaluation during
training. Evaluates each of them with the settings of those, in float32 and under autocast in both low-precision dtypes,
in turn. Prints the metrics of float32, the differences of both dtypes to them, and the median seconds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from m2det.config import Params, PrecisionParams
from m2det.data.packed.reader import PackedSplit
from m2det.data.sources.digits import make_digits
from m2det.distributed.group import ALONE
from m2det.files.tensors import save_tensors
from m2det.model import M2Det, prior_boxes
from m2det.model.pretrained import random_backbone
from m2det.train import train
from m2det.train.amp import Precision
from m2det.train.evaluator import validate
from m2det.train.state import Callbacks, TrainingState

DTYPES = ("float32", "bfloat16", "float16")
SCORES = ("AP", "AP50", "AP75")


class KeepWeights(Callbacks):
    """The weights of each evaluation, by epoch."""

    def __init__(self) -> None:
        self.by_epoch: dict[int, dict[str, torch.Tensor]] = {}

    def on_evaluated(self, state: TrainingState, metrics: dict[str, float]) -> None:  # noqa: ARG002
        self.by_epoch[state.epoch] = {key: value.clone() for key, value in state.parts.model.state_dict().items()}


def main() -> None:
    """Train, evaluate, and print the tables."""
    parser = argparse.ArgumentParser(description="Compare evaluations in float32, bfloat16 and float16.")
    parser.add_argument("--epochs", type=int, default=24, help="of the training (default %(default)s)")
    parser.add_argument("--seed", type=int, default=49, help="of the training (default %(default)s)")
    arguments = parser.parse_args()
    from train_digits import pack, recipe

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_digits(folder / "digits")
        pack(folder / "digits", folder / "cache")
        params = recipe(arguments.epochs, arguments.seed, evaluations=12)
        model, by_epoch = trained(params, folder)
        split = PackedSplit(folder / "cache", "val")
        seconds: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
        print("| epoch | dtype | AP | AP50 | AP75 |\n|---|---|---|---|---|")
        for epoch, weights in by_epoch.items():
            model.load_state_dict(weights)
            rows = {dtype: timed(model, split, dtype, seconds[dtype]) for dtype in DTYPES}
            for dtype, row in rows.items():
                shown = [
                    f"{row[score]:.4f}" if dtype == "float32" else f"{row[score] - rows['float32'][score]:+.4f}"
                    for score in SCORES
                ]
                print(f"| {epoch} | {dtype} | {' | '.join(shown)} |")
    for dtype in DTYPES:
        ratio = statistics.median(a / b for a, b in zip(seconds[dtype], seconds["float32"], strict=True))
        print(f"{dtype}: {statistics.median(seconds[dtype]):.2f} s, {ratio:.2f} of float32")


def trained(params: Params, folder: Path) -> tuple[M2Det, dict[int, dict[str, torch.Tensor]]]:
    """Return the trained model, and the weights of each evaluation by epoch."""
    backbone, keep = folder / "backbone.safetensors", KeepWeights()
    state = random_backbone(params.model.name, params.seed).state_dict()
    save_tensors(backbone, {f"base.{key}": value for key, value in state.items()}, {})
    outcome = train(params, folder / "cache", backbone, folder / "run", folder / "log.txt", callbacks=keep)
    return outcome.model, keep.by_epoch


def timed(model: M2Det, split: PackedSplit, dtype: str, seconds: list[float]) -> dict[str, float]:
    """Evaluate the model in this dtype, and append the seconds."""
    settings = PrecisionParams(opt_level="O0", loss_scale=32.0, dtype="auto", backend="native")
    precision = Precision(settings, torch.device("cpu"))  # in which validate adds no autocast of its own
    priors = prior_boxes(model.config)
    low = torch.bfloat16 if dtype == "float32" else getattr(torch, dtype)
    start = time.perf_counter()
    with torch.autocast("cpu", low, enabled=dtype != "float32"):
        metrics = validate(model, priors, split, precision.device, ALONE, precision, workers=0)
    seconds.append(time.perf_counter() - start)
    return metrics


if __name__ == "__main__":
    main()
