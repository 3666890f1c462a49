"""The end of an epoch: its row of the curves, its AP where an evaluation is due, and whether it is the best so far."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from m2det.config import EvaluateParams
from m2det.data.packed.reader import PackedSplit
from m2det.distributed.group import Group
from m2det.evaluate.inference import coco_results_distributed
from m2det.evaluate.metrics import coco_metrics
from m2det.files.whole import temporary_folder, write_whole
from m2det.model import M2Det
from m2det.progress import NO_PROGRESS, Progress
from m2det.text import undefined_note
from m2det.train.amp import Precision
from m2det.train.best_weights import best_file
from m2det.train.logger import TrainingLog
from m2det.train.optim import train_mode
from m2det.train.state import Callbacks, TrainingState

# Not the section `evaluate` of params.yaml, which shapes results/metrics.json alone: AP seen in training decides which
# weights are kept, and must not depend on how the final evaluation is made.
POSTPROCESSING = EvaluateParams(
    split="val",
    batch_size=32,
    nms="linear",
    score_threshold=0.05,
    nms_iou=0.3,
    per_class=100,
    per_image=100,
    scorer="auto",
)


def end_epoch(state: TrainingState, val: PackedSplit, workers: int, callbacks: Callbacks, log: TrainingLog) -> str:
    """Record the epoch, evaluate it if that is due, and save.

    Args:
        state: after the epoch's last step.
        val: the split to evaluate on.
        workers: processes that decode its images.
        callbacks: on_evaluated is called.
        log: takes the progress of the evaluation.

    Returns:
        A line for the log.
    """
    losses = state.monitor.mean()
    row = {
        "epoch": state.epoch,
        "step": state.step,
        "lr": float(f"{state.lr:.4g}"),
        "loss_loc": round(losses["loc"], 4),
        "loss_conf": round(losses["conf"], 4),
    }
    if state.epoch % state.parts.settings.evaluate_every != 0 and not state.finished:
        state.end_epoch(row, state.best)
        state.save()
        log.epochs_ended(state.rows)
        return f"epoch {state.epoch} ended"
    if not state.pending_evaluation:
        state.pending_evaluation = True
        state.save()  # an evaluation takes minutes: interrupting it loses no step
    evaluate(state, row, val, workers, callbacks, log)
    log.epochs_ended(state.rows)
    state.finish_writing()
    line = f"epoch {state.epoch}: AP {row['AP']:.4f} AP50 {row['AP50']:.4f}{undefined_note(row['AP'])}, saved"
    return f"{line}\n{describe_early_end(state)}" if state.out_of_patience and not state.finished else line


def describe_early_end(state: TrainingState) -> str:
    """Return a line on a training that train.patience ends."""
    patience, best = state.parts.settings.patience, state.best
    return (
        f"training ends after epoch {state.epoch}: no AP above {best['AP']:.4f}, that of epoch {best['epoch']}, in "
        f"{patience} evaluation{'s'[: patience > 1]} (train.patience); the weights of epoch {best['epoch']} are kept"
    )


def evaluate(
    state: TrainingState, row: dict[str, Any], val: PackedSplit, workers: int, callbacks: Callbacks, log: TrainingLog
) -> None:
    """End the epoch with the metrics of the averaged weights, and keep these where AP is the highest so far.

    Args:
        state: saved as it is before the evaluation.
        row: the epoch's; takes AP and AP50.
        val: the split to evaluate on.
        workers: processes that decode its images.
        callbacks: on_evaluated is called.
        log: takes the progress.
    """
    parts, best, weights = state.parts, state.best, dict[str, Tensor]()
    with parts.ema.applied():
        parts.group.broadcast_buffers(parts.model)
        with log.evaluation(len(val)) as progress:
            metrics = validate(
                parts.model, parts.priors, val, parts.device, parts.group, parts.precision, workers, progress
            )
        callbacks.on_evaluated(state, metrics)
        row |= {"AP": round(metrics["AP"], 4), "AP50": round(metrics["AP50"], 4)}
        if metrics["AP"] > best["AP"]:
            best = {"AP": metrics["AP"], "epoch": state.epoch, "file": ""}
            if parts.settings.keep == "best":
                best["file"], weights = best_file(state.epoch), parts.model.state_dict()
        state.end_epoch(row, best)
        state.save_evaluation(weights)
    train_mode(parts.model, parts.settings)


def validate(
    model: M2Det,
    priors: Tensor,
    val: PackedSplit,
    device: torch.device,
    group: Group,
    precision: Precision,
    workers: int,
    progress: Progress = NO_PROGRESS,
) -> dict[str, float]:
    """Return COCO's metrics of the model on the split, every image counted once.

    The network runs in float16 where the training does, else in float32: bfloat16, with 8 bits instead of 11, moved AP
    by up to 0.001 (docs/benchmarks/evaluation.md). The stage evaluate runs in float32.

    Args:
        model: left in evaluation mode.
        priors: float32 [P,4] cxcywh, on the device.
        val: the split.
        device: of the model.
        group: each process takes its share of the images; all get the same metrics.
        precision: of the training.
        workers: processes that decode images, of each process of the group.
        progress: of this process.
    """
    model.eval()

    def network(images: Tensor) -> dict[str, Tensor]:
        with precision.autocast() if precision.dtype == torch.float16 else nullcontext():
            outputs: dict[str, Tensor] = model(images)
        return outputs

    size = model.config.size
    results = coco_results_distributed(network, priors, val, size, device, POSTPROCESSING, workers, group, progress)
    with temporary_folder() as folder:
        path = folder / "results.json"
        write_whole(path, json.dumps([entry for image in results for entry in image]))
        return coco_metrics(val.ground_truth, path)
