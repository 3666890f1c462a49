"""The training loop."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from m2det.config import Params
from m2det.data.batch import Batch
from m2det.data.dataloader import training_loader
from m2det.distributed.grace import LOG, saying
from m2det.distributed.group import Group
from m2det.distributed.stop import StopRequest
from m2det.model.preprocess import subtract_mean
from m2det.train.checkpoint import checkpoints, step_of
from m2det.train.logger import TrainingLog
from m2det.train.prefetch import gc_disabled, group_microbatches, prefetch_to_device
from m2det.train.state import Run, TrainResult

ALONE = Group()


def train(
    params: Params, cache: Path, backbone: Path, unfinished: Path, log_file: Path, group: Group = ALONE
) -> TrainResult:
    """Train on the cache's split `train`, validate on `val`; resume what `unfinished` holds.

    Every process of the group calls it alike; rank 0 writes.

    Raises InputError for settings that the data does not allow and for a loss that is not finite.
    """
    run = Run(params, cache, backbone, unfinished, group)
    report = TrainingLog(
        log_file if group.is_main_process else None, run.step, run.order.steps, run.order.batch_size, run.cost()
    )
    last_words = saying(partial(unended, unfinished), unfinished / LOG)
    with StopRequest() as stop, report, gc_disabled(), last_words:
        loader = training_loader(run.samples, run.order, params.run.workers, run.device.type != "cpu")
        for batches in group_microbatches(prefetch_to_device(loader, run.device), run.order.accumulation):
            report.got_batch()
            rate = run.set_learning_rate()
            train_step(run, batches)
            report.did_step()
            stopping = run.agrees_to_stop(stop.requested, report.step_seconds)
            if run.step % params.run.log_every == 0 or run.epoch_ended or stopping:
                losses, scale = run.losses.mean(), run.precision.loss_scale()
                report.progress(run.step, run.epochs_done, params.epochs, losses, rate, scale)
            report.worked()
            if run.epoch_ended:
                report.line(run.end_epoch(rate))
                gc.collect()
            elif run.step % params.run.save_every == 0 or stopping:
                run.save()
            report.resume_clock()
            if stopping:
                group.barrier()  # for rank 0 to have written: torchrun ends all soon after the first one
                report.line(f"stopped at step {run.step}; the same command continues from there")
                raise SystemExit(128 + stopping)
    return run.outcome()


def unended(unfinished: Path, grace: float) -> str:
    """What to say of a step that outlasts the grace."""
    saved = checkpoints(unfinished)
    step = step_of(saved[-1]) if saved else 0
    return f"the step did not end within run.stop_grace = {grace:g} s; the same command continues from step {step}"


def train_step(run: Run, batches: Sequence[Batch]) -> None:
    """One update of the weights by the gradients of these batches; nothing in it waits for the device."""
    targets = [run.loss.targets(run.priors, batch.boxes, batch.labels) for batch in batches]
    divisors = run.divisors(targets)
    run.optimizer.zero_grad()
    for part, batch in enumerate(batches):
        with nullcontext() if part == len(batches) - 1 else run.group.no_sync(run.network):
            with run.precision.autocast():
                outputs = run.network(subtract_mean(batch.images, run.device))
            losses = run.loss.compare(outputs, targets[part], divisors[part])
            run.note(part, losses)
            run.precision.backward(losses["loc"] + losses["conf"])
    run.precision.step(run.optimizer, run.params.train.max_grad_norm, skip=run.losses.failed())
    run.average.update()
    run.did_step()
