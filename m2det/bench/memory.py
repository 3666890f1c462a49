"""The largest microbatch that there is memory for: training steps on made-up images, each size in its own process.

As a module, one size: PARAMS MICROBATCH CLASSES.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from m2det.bench.step import made_up_batch
from m2det.config import Params, load_params
from m2det.device import choose_device, device_name, is_out_of_memory, limit_memory, peak_memory
from m2det.distributed.children import relay_child
from m2det.distributed.group import ALONE
from m2det.distributed.launch import count_processes
from m2det.errors import InputError
from m2det.model import build_model, get_config
from m2det.train.build import build_parts
from m2det.train.loss_monitor import LossMonitor
from m2det.train.optim import set_lr
from m2det.train.schedule import WARMUP_START_LR
from m2det.train.trainer import train_step

SHARE = 0.9  # of the memory that is free: the rest is for crowded images, the loader and other programs
STEPS = 2  # the second one has the optimizer's state from its beginning on


@dataclass(frozen=True)
class Try:
    """How a microbatch went: the most bytes it took (0 if that was more than it was allowed), and the bytes allowed."""

    peak: int
    allowed: int


def find_microbatch(params_file: str, classes: int, write: Callable[[str], None]) -> int:
    """Return the largest microbatch for which there is memory and that divides a process's share of a step.

    Args:
        params_file: has the network, the optimizer, the precision and the device; a process's share of
            train.batch_size is the largest size that is tried.
        classes: of the network.
        write: takes a line for each size that is tried, and one on the largest that fits.

    Raises:
        InputError: not even the smallest microbatch fits, or a step failed for another reason.
    """
    params = load_params(params_file)
    processes, device = count_processes(params), choose_device(params.run.device)
    config = get_config(params.model.name, **params.model.all_overrides)
    least = 2 if config.feature_sizes[-1] == 1 else 1  # batch normalization needs two values
    together = processes * params.run.nodes
    most = params.train.batch_size // together
    if most < least:
        raise InputError(
            f"train.batch_size {params.train.batch_size} in {together} processes leaves {most} images for each, and "
            f"{config.name} needs {least}: raise train.batch_size, or lower run.processes"
        )
    sharing = processes if device.type == "cpu" else 1  # accelerators have memory of their own

    def fits(microbatch: int) -> bool:
        tried = try_in_child(params_file, microbatch, classes, SHARE / sharing)
        taken = f"{tried.peak / 1e9:.2f} GB" if tried.peak else "too large"
        write(f"microbatch {microbatch:<4} {taken:>10}, of {tried.allowed / 1e9:.2f} GB allowed")
        return tried.peak > 0

    write(f"training {config.name} with {classes} classes on {device_name(device)}, {SHARE:.0%} of its free memory:")
    largest = largest_fitting(fits, least, most)
    if not largest:
        raise InputError(f"not even a microbatch of {least} fits; choose a smaller model.name, or close other programs")
    usable = max((size for size in range(least, largest + 1) if most % size == 0), default=0)
    if not usable:
        raise InputError(
            f"{largest} images fit, but no microbatch from {least} to {largest} divides the {most} images that a "
            "process has of train.batch_size; change train.batch_size"
        )
    share = f"train.batch_size {params.train.batch_size}" + f" in {processes} processes" * (processes > 1)
    write(f"the largest is {largest}; the largest that divides {share}:")
    return usable


def largest_fitting(fits: Callable[[int], bool], least: int, most: int) -> int:
    """Return the largest size from `least` to `most` that fits, by doubling and then bisecting; 0 if none does."""
    low, high, size = 0, most + 1, least
    while low < size < high:
        if fits(size):
            low = size
        elif size == least:
            return 0
        else:
            high = size
        size = min(2 * low, most) if high > most else (low + high) // 2
    return low


def try_in_child(params_file: str, microbatch: int, classes: int, share: float) -> Try:
    """Return what try_step does, run in a process of its own: a size that failed leaves nothing to the next."""
    lines: list[str] = []
    command = [sys.executable, "-m", "m2det.bench.memory", params_file, str(microbatch), str(classes), str(share)]
    try:
        relay_child(command, lines.append)
    except subprocess.CalledProcessError as error:
        if error.returncode >= 0:
            said = lines[-1] if lines else f"exit code {error.returncode}"
            raise InputError(f"a training step with a microbatch of {microbatch} failed: {said}") from error
        lines.append(json.dumps(asdict(Try(0, 0))))  # killed by the kernel, or aborted for want of memory
    return Try(**json.loads(lines[-1]))


def try_step(params: Params, microbatch: int, classes: int, share: float) -> Try:
    """Train on made-up images, with two microbatches a step where a step has more than one; limit this process.

    Args:
        params: of the training.
        microbatch: images.
        classes: of the network.
        share: of the memory that is free, which this process may take.
    """
    device = choose_device(params.run.device)
    allowed = limit_memory(device, share)
    count = 2 if params.train.batch_size > microbatch else 1
    settings = params.train.model_copy(update={"microbatch": microbatch, "batch_size": count * microbatch})
    try:
        torch.manual_seed(0)
        model = build_model(params.model.name, classes, **params.model.all_overrides)
        run = params.run
        parts = build_parts(model, settings, params.precision, device, ALONE, run.compile, run.graph)
        batches = [made_up_batch(microbatch, model.config.size, classes).to(device) for _ in range(count)]
        monitor = LossMonitor(ALONE, device, str)
        set_lr(parts.optimizer, WARMUP_START_LR)
        for step in range(STEPS):
            train_step(parts, monitor, step, batches)
        monitor.mean()  # waits for the device
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return Try(0, allowed)
    return Try(peak_memory(device), allowed)


def main(params_file: str, microbatch: str, classes: str, share: str) -> None:
    """Print the outcome of one size as JSON, in the last line."""
    print(json.dumps(asdict(try_step(load_params(params_file), int(microbatch), int(classes), float(share)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
