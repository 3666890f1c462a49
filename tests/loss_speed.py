"""`python -m tests.loss_speed`: seconds of the loss of one step, against the original's way (docs/benchmarks/loss.md).

The step has 16 images, 32,760 priors, 81 classes and 16 objects per image. Both ways run in turn, forward and backward.
"""

import argparse
import statistics
import time

import torch

from m2det.loss import MultiBoxLoss
from tests.original_loss import material, original_loss


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
    options = parser.parse_args()
    synchronize = (lambda: None) if options.device == "cpu" else torch.accelerator.synchronize
    arguments = material(options.device)
    ways = (MultiBoxLoss(), original_loss)
    times = [[seconds(way, arguments, synchronize) for way in ways] for _ in range(options.rounds + 1)][1:]
    ours, original = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    print(f"{options.device}, {torch.get_num_threads()} threads, medians of {options.rounds} rounds after a first one:")
    print(f"ours {ours:.4f} s, the original's way {original:.4f} s, median ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
