"""`python -m tests.loss.speed`: seconds of the losses of one step (docs/benchmarks/loss.md).

The step has 16 images, 32,760 priors, 81 classes and 16 objects per image. Both objectives and the original's way to
the first run in turn, forward and backward.
"""

import argparse
import statistics
import time

import torch

from m2det.loss import AlignedLoss, MultiBoxLoss
from tests.loss.original_loss import material, original_loss


def seconds(loss, arguments, synchronize) -> float:
    synchronize()
    start = time.perf_counter()
    losses = loss(*arguments)
    (losses["loc"] + losses["conf"]).backward()
    synchronize()
    for output in arguments[0].values():
        output.grad = None
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--objects", type=int, default=16, help="per image (default %(default)s)")
    options = parser.parse_args()
    synchronize = (lambda: None) if options.device == "cpu" else torch.accelerator.synchronize
    arguments = material(options.device, objects=options.objects)
    ways = {"multibox": MultiBoxLoss(), "the original's way": original_loss, "aligned": AlignedLoss()}
    times = [[seconds(way, arguments, synchronize) for way in ways.values()] for _ in range(options.rounds + 1)][1:]
    print(f"{options.device}, {torch.get_num_threads()} threads, medians of {options.rounds} rounds after a first one:")
    for name, column in zip(ways, zip(*times, strict=True), strict=True):
        ratio = statistics.median(own / first for own, (first, *_) in zip(column, times, strict=True))
        print(f"{name}: {statistics.median(column):.4f} s, {ratio:.2f} times multibox")


if __name__ == "__main__":
    main()
