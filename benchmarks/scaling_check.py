"""Measure steps of two processes with gloo beside what scaling_model.py says of them: `benchmarks/scaling.py --check`.

The inputs are measured by themselves, in the same two processes of one thread: the time of a step whose gradients are
not exchanged, while the other process computes one, too; and all-reduces of few and of many bytes, without a network.
A measurement begins in both processes at once and takes as long as the slower one. Every round measures all of it in
turn, so that other programs slow both sides alike; medians count, and a ratio is the median of the rounds'.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from scaling_model import BUCKET, Link, Network, System, predict

ROUNDS = 15
FEW = 4  # bytes
CLASSES = 10
# channels of conv6 and conv7 of m2det-tiny, which has 128, and images of each process: 4,096 make 66 MB more of
# gradients for little more to compute
POINTS = [(128, 2), (128, 8), (4096, 2), (4096, 8)]


def check() -> None:
    """Measure in two processes and print a table in Markdown."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    subprocess.run(launcher, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def measure() -> None:
    """Measure as one of two processes; rank 0 prints."""
    import torch

    from m2det.bench.step import SETTINGS, made_up_batch, repeated_step
    from m2det.config import PrecisionParams
    from m2det.distributed.group import ALONE, Group
    from m2det.distributed.threads import load_average
    from m2det.model import build_model
    from m2det.model.config import TINY
    from m2det.train.build import build_parts

    device, group = torch.device("cpu"), Group.from_environment()
    group.init(device)
    precision = PrecisionParams(opt_level="O0", loss_scale=32.0, dtype="auto", backend="native")
    few, many = torch.zeros(FEW // 4), torch.zeros(BUCKET // 4)
    steps: dict[str, Callable[[], object]] = {
        "few": lambda: torch.distributed.all_reduce(few),
        "many": lambda: torch.distributed.all_reduce(many),
    }
    networks = {}
    for fc, images in POINTS:
        config = replace(TINY, backbone=replace(TINY.backbone, fc=fc))
        name = f"fc {fc}, {images} images"
        batch = made_up_batch(images, config.size, CLASSES)
        for kind, members in (("alone", ALONE), ("both", group)):
            model = build_model(config, CLASSES)
            networks[name] = Network(0.0, 4.0 * sum(p.numel() for p in model.parameters()))
            parts = build_parts(model, SETTINGS, precision, device, members, False)
            steps[f"{name}, {kind}"] = repeated_step(parts, batch)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS + 1):
        for name, step in steps.items():
            group.barrier()
            start = time.perf_counter()
            step()
            slower = group.all_reduce_max([time.perf_counter() - start], device)
            seconds[name] += slower if number else []  # the first one warms up
    if group.is_main_process:
        load = load_average()
        print(f"two processes of one thread, gloo on this machine, load {load or 0:.1f}, {ROUNDS} rounds")
        report(seconds, networks)
    group.destroy()


def report(seconds: dict[str, list[float]], networks: dict[str, Network]) -> None:
    """Print a table in Markdown.

    Args:
        seconds: of each round, by what was measured.
        networks: by the names of the points.
    """
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    link = Link(BUCKET / (middle["many"] - middle["few"]), middle["few"])
    print(
        f"an all-reduce: {link.latency * 1e3:.2f} ms and {link.bandwidth / 1e9:.2f} GB/s\n\n"
        "| m2det-tiny | gradients, MB | a step alone, s | computed for two, s | measured, s "
        "| computed / measured | middle half of the rounds |\n" + "|---" * 7 + "|"
    )
    for name, network in networks.items():
        alone, both = seconds[f"{name}, alone"], seconds[f"{name}, both"]
        computed = [step_of_two(step, network, link) for step in alone]
        low, ratio, high = statistics.quantiles((c / b for c, b in zip(computed, both, strict=True)), n=4)
        print(
            f"| {name} | {network.gradients / 1e6:.1f} | {statistics.median(alone):.4f} "
            f"| {statistics.median(computed):.4f} | {statistics.median(both):.4f} "
            f"| {ratio:.2f} | {low:.2f} to {high:.2f} |"
        )


def step_of_two(alone: float, network: Network, link: Link) -> float:
    """Return what the model says of a step of two processes, each of which takes `alone` seconds by itself.

    Sending takes the cores that compute, so the backward pass hides none of it.
    """
    nowhere = Link(float("inf"), 0.0)
    system = System(alone, 2, 1.0, 0.0, 0.0, link, nowhere, network.gradients, overlap=0.0)
    return predict(system, network, 1, 1).seconds


if __name__ == "__main__":
    measure()
