"""The training loop."""

from __future__ import annotations

from pathlib import Path

from m2det.config import Params
from m2det.data.loader import training_loader
from m2det.device import normalise
from m2det.train.group import Group
from m2det.train.log import TrainingLog
from m2det.train.run import Outcome, Run
from m2det.train.stop import StopRequest

ALONE = Group()


def train(
    params: Params, cache: Path, backbone: Path, unfinished: Path, log_file: Path, group: Group = ALONE
) -> Outcome:
    """Train on the cache's split `train`, validate on `val`; resume what `unfinished` holds.

    Every process of the group calls it alike; rank 0 writes.

    Raises InputError for settings that the data does not allow and for a loss that is not finite.
    """
    run = Run(params, cache, backbone, unfinished, group)
    with (
        StopRequest() as stop,
        TrainingLog(log_file if group.leads else None, run.step, run.order.steps, run.order.batch_size) as report,
    ):
        loader = training_loader(run.samples, run.order, params.train.workers, run.device.type != "cpu")
        for batch in loader:
            report.got_batch()
            rate = run.set_learning_rate()
            batch = batch.to(run.device)
            with run.precision.autocast():
                outputs = run.network(normalise(batch.images, run.device))
            losses = run.loss(outputs, run.priors, batch.boxes, batch.labels)
            run.note(losses)
            run.optimizer.zero_grad()
            run.precision.backward(losses["loc"] + losses["conf"])
            run.precision.step(run.optimizer, params.train.clip_norm, skip=run.failed)
            run.average.update()
            report.did_step()
            stopping = run.agrees_to_stop(stop.requested)
            if run.step % params.train.log_every == 0 or run.epoch_ended or stopping:
                report.progress(run.step, run.epochs_done, params.epochs, run.mean_losses(), rate)
            if run.epoch_ended:
                report.line(run.end_epoch(rate))
                report.resume_clock()
            if stopping:
                run.save()
                report.line(f"stopped at step {run.step}; the same command continues from there")
                raise SystemExit(128 + stopping)
    return run.outcome()
