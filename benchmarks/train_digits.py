"""Train the recipe `digits` with its CPU time measured, and detect: what the scripts of this folder have in common."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from m2det.config import Params, check_params
from m2det.config.recipes import read_recipe
from m2det.config.schema import defaults
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.data.sources.coco2014 import SPLITS
from m2det.evaluate.inference import coco_results_of_split
from m2det.files.tensors import save_tensors
from m2det.model import M2Det, prior_boxes
from m2det.model.pretrained import random_backbone
from m2det.train import train
from m2det.train.state import Callbacks, TrainingState


class Trained(NamedTuple):
    """A network, the CPU seconds from its first training step to its last without evaluations, and AP by epoch."""

    model: M2Det
    cpu_seconds: float
    ap_by_epoch: dict[int, float]


class CpuClock(Callbacks):
    """The CPU time of this process from the first step to the end of the last, without evaluations in between."""

    begin = step_end = seconds = 0.0

    def on_step_begin(self, state: TrainingState) -> None:
        if state.step == 0:
            self.begin = time.process_time()

    def on_step_end(self, state: TrainingState) -> None:  # noqa: ARG002
        self.step_end = time.process_time()
        self.seconds = self.step_end - self.begin

    def on_evaluated(self, state: TrainingState, metrics: dict[str, float]) -> None:  # noqa: ARG002
        self.begin += time.process_time() - self.step_end


def recipe(epochs: int, seed: int, size: int | None = None, evaluations: int = 1) -> Params:
    """Return the recipe `digits` on a CPU; size is of the input in pixels, if not the recipe's."""
    values: dict[str, Any] = read_recipe("digits")[1]
    values["data"] = defaults()["data"] | values["data"]
    values |= {"epochs": epochs, "seed": seed}
    values["run"] |= {"device": "cpu", "workers": 0}
    values["model"]["overrides"] |= {"size": size} if size else {}
    values["train"]["evaluate_every"] = max(1, epochs // evaluations)
    return check_params(values, "the recipe digits")


def pack(root: Path, cache: Path) -> None:
    """Write the packed cache of `digits`, which lies under root."""
    cache.mkdir()
    splits = {name: read_split([(root / a, root / i) for a, i in sources]) for name, sources in SPLITS.items()}
    entries = {name: write_split(cache, name, split) for name, split in splits.items()}
    finish_cache(cache, splits["train"].categories, entries)


def train_m2det(params: Params, cache: Path) -> Trained:
    """Train from random weights; the last ones are returned, or the best ones where the recipe says so."""
    state = random_backbone(params.model.name, params.seed).state_dict()
    clock = CpuClock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = folder / "backbone.safetensors"
        save_tensors(backbone, {f"base.{key}": value for key, value in state.items()}, {})
        outcome = train(params, cache, backbone, folder, folder / "log.txt", callbacks=clock)
    scores = {row["epoch"]: row["AP"] for row in outcome.rows if "AP" in row}
    return Trained(outcome.model, clock.seconds, scores)


def detect_val(model: M2Det, params: Params, cache: Path) -> list[dict[str, Any]]:
    """Return the COCO results on the split `val`, as the recipe postprocesses them."""
    split, device = PackedSplit(cache, "val"), torch.device("cpu")
    priors, size = prior_boxes(model.config), model.config.size
    images = coco_results_of_split(model.eval(), priors, split, size, device, params.evaluate, 0, range(len(split)))
    return [entry for image in images for entry in image]
