"""What torchrun starts for test_distributed.py: -m tests.train.one_of_several CASE PARAMS CACHE BACKBONE FOLDER."""

import atexit
import resource
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from m2det import progress
from m2det.config import load_params
from m2det.data.batch import collate
from m2det.distributed import stop
from m2det.distributed.children import run_child
from m2det.distributed.group import ALONE, Group
from m2det.distributed.launch import run_worker
from m2det.errors import InputError
from m2det.evaluate.rank import detect_split
from m2det.loss import AlignedLoss
from m2det.train import rank, trainer
from m2det.train.build import build_training
from m2det.train.ema import ModelEma
from m2det.train.loss_monitor import LossMonitor
from m2det.train.rank import main
from m2det.train.trainer import train_step
from m2det.train.writer import BackgroundWriter
from tests.training import AfterStep

CPU = torch.device("cpu")


def first_gradients(params, cache, backbone, group=ALONE):
    """The gradients of the first step, as the loop makes them, but in float64, which says what float32 blurs."""
    group.init(CPU)
    parts, data = build_training(params, cache, backbone, CPU, group)
    parts.model.double().register_forward_pre_hook(lambda _, images: (images[0].double(),))
    parts.optimizer.state.clear()  # momentum in float32
    parts = replace(parts, ema=ModelEma(parts.model, 0.0), network=group.wrap(parts.model, CPU))
    batches = [collate([data.samples[key] for key in keys]) for keys in data.order.microbatches(0)]
    train_step(parts, LossMonitor(group, CPU, str), 0, batches)
    return {name: p.grad for name, p in parts.model.named_parameters()}


def assert_close(gradients, expected):
    """To 1e-5 of each tensor's largest value."""
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(gradients[name], value, rtol=1e-5, atol=1e-5 * value.abs().max().item()), name


def run_case(case: str):
    """Return a replacement of run_child whose processes run a case of this module instead of m2det.train.rank."""

    def run(command, **options):
        module = [part.replace("m2det.train.rank", "tests.train.one_of_several") for part in command[:-4]]
        run_child([*module, case, *command[-4:]], **options)

    return run


def gradients(folder: str, cache: str, backbone: str) -> None:
    """Leave first_gradients of each FOLDER/*/params.yaml beside it, in gradients.pt."""
    group = Group.from_environment()
    for file in sorted(Path(folder).glob("*/params.yaml")):
        values = first_gradients(load_params(file), Path(cache), Path(backbone), group)
        if group.is_main_process:
            torch.save(values, file.parent / "gradients.pt")


class Poisoned(AlignedLoss):
    """The loss of the third microbatch is not finite."""

    calls = 0

    def compute(self, *arguments):
        losses = super().compute(*arguments)
        Poisoned.calls += 1
        return {**losses, "loc": losses["loc"] * (float("nan") if Poisoned.calls == 3 else 1)}


def poisoned(*arguments: str) -> None:
    """Train; in process 1 the loss of step 3 is not finite."""
    if Group.from_environment().rank == 1:
        from m2det.train import build

        build.AlignedLoss = Poisoned
    main(*arguments)


def crashing(*arguments: str) -> None:
    """Train; process 1 has a mistake in step 3."""

    def crash(state) -> None:
        if state.parts.group.rank == 1:
            raise KeyError("a mistake in step 3")

    main(*arguments, callbacks=AfterStep(crash, 3))


def stuck(*arguments: str) -> None:
    """Train; in step 3 process 1 waits for ever, whatever signal comes."""

    def wait(state) -> None:
        if state.parts.group.rank == 1:
            (state.run_dir / "stuck").touch()
            while True:
                time.sleep(1)

    main(*arguments, callbacks=AfterStep(wait, 3))


def full_disk(*arguments: str) -> None:
    """Train with checkpoints in the background; from step 4 on no file of process 0 gets longer than 8 MB.

    Each process leaves the last step and the error that it raises in RUN_DIR/raised-RANK.
    """
    stop.MAX_STEPS = 1  # ask after each step: before the end of the epoch, where all wait for the write anyway
    trainer.make_writer = lambda _, on_error: BackgroundWriter(on_error)
    steps = []

    def fill(state) -> None:
        steps.append(state.step)
        if state.step == 4 and state.parts.group.is_main_process:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, resource.RLIM_INFINITY))
        if state.step == 5:
            for thread in threading.enumerate():
                if thread.name == "checkpoint writer":
                    thread.join()

    def train_and_tell(*arguments):
        try:
            return train(*arguments)
        except InputError as error:
            (Path(arguments[3]) / f"raised-{arguments[5].rank}").write_text(f"{steps[-1]} {error}")
            raise

    train, rank.train = rank.train, train_and_tell
    main(*arguments, callbacks=AfterStep(fill))


def by_clock(*arguments: str) -> None:
    """Train; the clock of process 0 asks for a line after each step, the others' never."""
    if Group.from_environment().is_main_process:
        progress.FIRST_LINE = progress.NEXT_LINE = progress.FILE_SECONDS = 0.0
    main(*arguments)


def detecting(params_file: str, model: str, folder: str) -> None:
    """Leave the detections on each packed cache FOLDER/NAME/cache in FOLDER/NAME/together.json."""
    params = load_params(params_file)

    def detect(group: Group) -> None:
        for cache in sorted(Path(folder).glob("*/cache")):
            detect_split(params, cache, Path(model), cache.parent / "together.json", group)

    run_worker(detect, Path(folder), 5.0)


def leaving(folder: str) -> None:
    """Meet the others; print at the end of the process whether they were left before."""
    atexit.register(lambda: print(f"connected: {dist.is_initialized()}", flush=True))

    def meet(group: Group) -> None:
        group.init(CPU)
        group.barrier()

    run_worker(meet, Path(folder), 5.0)


if __name__ == "__main__":
    cases = {"leaving": leaving, "detecting": detecting}
    cases |= {"gradients": gradients, "poisoned": poisoned, "crashing": crashing, "stuck": stuck, "train": main}
    cases |= {"full_disk": full_disk, "by_clock": by_clock}
    cases[sys.argv[1]](*sys.argv[2:])
