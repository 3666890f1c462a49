"""The training loop and the training step."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from m2det.config import Params
from m2det.data.batch import Batch
from m2det.data.dataloader import training_loader
from m2det.device import choose_device, set_determinism
from m2det.distributed.group import ALONE, Group
from m2det.distributed.shutdown import LOG_NAME, shutdown_message, timeout_message
from m2det.distributed.stop import StopRequest
from m2det.loss import Targets
from m2det.model.preprocess import subtract_mean
from m2det.train.build import TrainingData, TrainingParts, build_training
from m2det.train.checkpoint import last_step
from m2det.train.diagnose import diagnose_nonfinite
from m2det.train.evaluator import end_epoch
from m2det.train.log_file import loggers_write_to
from m2det.train.logger import TrainingLog, describe_run
from m2det.train.loss_monitor import LossMonitor
from m2det.train.optim import lr_of_step, set_lr
from m2det.train.prefetch import gc_disabled, group_microbatches, prefetch_to_device
from m2det.train.state import Callbacks, TrainingState, TrainResult
from m2det.train.writer import make_writer


def train(
    params: Params,
    cache: Path,
    backbone: Path,
    run_dir: Path,
    log_file: Path,
    group: Group = ALONE,
    callbacks: Callbacks | None = None,
    curves_file: Path | None = None,
) -> TrainResult:
    """Train on the split `train`, evaluate on `val`, and resume what the run directory holds.

    Args:
        params: of the training.
        cache: the packed cache.
        backbone: pretrained weights.
        run_dir: takes the checkpoints.
        log_file: lines are appended to it, those of the loggers of m2det included.
        group: the processes that train together; each calls this alike, and rank 0 writes.
        callbacks: hooks of this process.
        curves_file: CSV of the epochs so far, written anew at the end of each.

    Raises:
        InputError: parameters that the data does not allow; a loss that is not finite; a full disk.
        SystemExit: a signal stopped the training, after a checkpoint.
    """
    set_determinism(params.run.deterministic)
    log_file_or_none = log_file if group.is_main_process else None
    with loggers_write_to(log_file_or_none):
        device = group.local_device(choose_device(params.run.device))
        group.init(device)
        parts, data = build_training(params, cache, backbone, device, group)
        monitor = LossMonitor(group, device, partial(diagnose_nonfinite, parts, data))
        stop = StopRequest(group, device)
        writer = make_writer(device, on_error=stop.fail)
        state = TrainingState(parts, data.order, monitor, run_dir, params.run, writer)
        state.resume()
        order = data.order
        order.start = state.step
        log = TrainingLog(log_file_or_none, state.step, order.steps, order.batch_size, parts.cost(), curves_file)
        # the checkpoints, and with them the step, are the first node's
        message = timeout_message if group.node else partial(step_timeout_message, run_dir)
        on_timeout = shutdown_message(message, run_dir / LOG_NAME)
        with stop, log, gc_disabled(), on_timeout, writer:
            log.write(describe_run(params, parts, data, state.step))
            log.epochs_ended(state.rows)
            fit(params, data, state, log, stop, callbacks or Callbacks())
        return state.result()


def fit(
    params: Params, data: TrainingData, state: TrainingState, log: TrainingLog, stop: StopRequest, callbacks: Callbacks
) -> None:
    """Run the steps that are left. Raises SystemExit with 128 + the number of a signal to stop."""
    parts, monitor, run = state.parts, state.monitor, params.run
    if state.pending_evaluation:
        with log.paused():
            log.write(end_epoch(state, data.val, run.workers, callbacks, log))
    for batches in () if state.out_of_patience else step_batches(data, run.workers, parts.device):
        log.data_ready()
        callbacks.on_step_begin(state)
        state.lr = lr_of_step(params, parts.lr, state.step, data.order.steps_per_epoch)
        set_lr(parts.optimizer, state.lr)
        train_step(parts, monitor, state.step, batches)
        state.step += 1
        log.step_done()
        callbacks.on_step_end(state)
        stopping = stop.should_stop(state.step, log.step_seconds, state.epoch_ended)
        if stopping:
            state.writer.patience = run.stop_grace / 2  # the rest is for the checkpoint of this step
        if state.step % run.log_every == 0 or state.epoch_ended or stopping:
            losses, loss_scale = monitor.mean(), parts.precision.loss_scale()
            log.progress(state.epochs_done, params.epochs, losses, state.lr, loss_scale)
        elif log.is_line_due:
            log.progress_by_clock(state.epochs_done, params.epochs, monitor.own_mean(), state.lr)
        with log.paused():
            if state.epoch_ended:
                log.write(end_epoch(state, data.val, run.workers, callbacks, log))
                gc.collect()
            elif state.step % run.save_every == 0 or stopping:
                state.save()
        if stopping:
            state.finish_writing()  # in rank 0: torchrun ends all processes soon after the first one
            log.write(f"stopped at step {state.step}; the same command continues from there")
            raise SystemExit(128 + stopping)
        if state.out_of_patience:
            break
    state.finish_writing()


def train_step(parts: TrainingParts, monitor: LossMonitor, step: int, batches: Sequence[Batch]) -> None:
    """Update the weights once, without host synchronization.

    Args:
        parts: of the training.
        monitor: takes the losses; an update that follows a loss that is not finite is skipped.
        step: its number, from 0.
        batches: the microbatches of this process, on the device.
    """
    targets = [parts.objective.targets(parts.priors, batch.boxes, batch.labels) for batch in batches]
    normalizers = loss_normalizers(parts, targets)
    parts.optimizer.zero_grad()
    for i, batch in enumerate(batches):
        with nullcontext() if i == len(batches) - 1 else parts.group.no_sync(parts.network):
            with parts.precision.autocast():
                outputs = parts.network(subtract_mean(batch.images, parts.device))
            losses = parts.objective.compute(outputs, targets[i], normalizers[i])
            monitor.update(step * len(batches) + i, losses)
            parts.precision.backward(losses["loc"] + losses["conf"])
    parts.precision.step(parts.optimizer, parts.settings.max_grad_norm, skip=monitor.found_nonfinite())
    parts.ema.update()
    monitor.end_step()


def loss_normalizers(parts: TrainingParts, targets: Sequence[Targets]) -> list[Tensor]:
    """Return what divides the losses of each microbatch: gradients of processes are averaged, of microbatches added."""
    counts = [target.num_positives for target in targets]
    if parts.settings.loss_normalization == "local":
        return [count.clamp(min=1) * len(counts) for count in counts]
    total = parts.group.all_reduce_sum(torch.stack(counts).sum()).clamp(min=1)
    return [total / parts.group.size] * len(counts)


def step_batches(data: TrainingData, workers: int, device: torch.device) -> Iterator[tuple[Batch, ...]]:
    """Yield the microbatches of each step on the device, from step data.order.start on."""
    loader = training_loader(data.samples, data.order, workers, device.type != "cpu")
    return group_microbatches(prefetch_to_device(loader, device), data.order.accumulation)


def step_timeout_message(run_dir: Path, grace: float) -> str:
    """Return the sentence on a step that did not end within the grace period."""
    sentence = f"the step did not end within run.stop_grace = {grace:g} s; the same command continues from step"
    return f"{sentence} {last_step(run_dir)}"
