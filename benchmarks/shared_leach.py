"""Compare the shared 1x1 convolution computed once and once per level: `python benchmarks/shared_leach.py`.

Measures the peak memory of one forward and backward pass of each, as a training runs them (memory format and
precision), in a process of its own; then times passes of both, in turn in one process. Ratios are of once to per level.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import torch

from m2det.config import PrecisionParams
from m2det.device import choose_device, device_name, peak_memory, synchronize, to_device, to_memory_format
from m2det.model import M2Det, build_model
from m2det.model.mlfpn import BasicConv
from m2det.train.amp import Precision

WAYS = ("once", "per level")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare the shared convolution computed once and once per level.")
    parser.add_argument("--model", default="m2det512-vgg16", metavar="NAME", help="(default %(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="images (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="of both in turn (default %(default)s)")
    parser.add_argument("--peak", choices=WAYS, help="print the peak memory of one pass, nothing else")
    arguments = parser.parse_args()
    device = choose_device("auto")
    options = PrecisionParams(opt_level="O1", loss_scale=32.0, dtype="auto", backend="native")
    precision = Precision(options, device)
    if arguments.peak:
        seconds_of_pass(network(arguments.model, arguments.peak, device), arguments.batch, precision)
        print(peak_memory(device))
        return
    peaks = []  # measured first: on Linux a child's peak begins at the memory of the process that started it
    for way in WAYS:
        command = [sys.executable, __file__, "--model", arguments.model, "--batch", str(arguments.batch), "--peak", way]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e9)
    models = {way: network(arguments.model, way, device) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for repetition in range(arguments.rounds + 1):
        for way, model in models.items():
            duration = seconds_of_pass(model, arguments.batch, precision)
            if repetition:  # the first pass makes kernels and memory ready
                seconds[way].append(duration)
    print(f"{arguments.model}, batch {arguments.batch}, {precision}, on {device_name(device)}")
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    shown = ", ".join(f"{way} {statistics.median(values):.3f} s" for way, values in seconds.items())
    print(f"forward and backward, medians: {shown}; median of the rounds' ratios {ratio:.3f}")
    print(f"peak memory: once {peaks[0]:.3f} GB, per level {peaks[1]:.3f} GB; ratio {peaks[0] / peaks[1]:.3f}")


def network(name: str, way: str, device: torch.device) -> M2Det:
    """Return the network with 80 classes, which computes the shared convolution once or once per level."""
    torch.manual_seed(0)
    model = build_model(name, 80)
    if way == "per level":
        config, leach = model.config, BasicConv(sum(model.config.fused), model.config.planes // 2, 1)
        leach.set_momentum(config.bn_momentum)
        model.leach = torch.nn.ModuleList([leach] * config.levels)
        model.config = replace(config, shared=False)
    to_device(model, device)
    return model


def seconds_of_pass(model: M2Det, batch: int, precision: Precision) -> float:
    """Return the seconds of a forward and backward pass, with the sum of the outputs as the loss."""
    size = model.config.size
    images = to_memory_format(torch.randn(batch, 3, size, size).to(precision.device), precision.device)
    model.zero_grad()
    synchronize(precision.device)
    start = time.perf_counter()
    with precision.autocast():
        outputs = model(images)
    (outputs["loc"].float().sum() + outputs["conf"].float().sum()).backward()
    synchronize(precision.device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
