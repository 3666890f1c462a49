"""Time post-processing of one image against the same class by class: `python benchmarks/postprocessing.py`.

Random outputs of COCO's size (m2det512-vgg16, 80 classes), with a threshold that leaves so many candidates. CPU time of
one thread, the least of several runs of both in turn: other programs do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from m2det.evaluate import postprocess
from m2det.model import prior_boxes
from tests.evaluate.slow_postprocess import slow_postprocess

CLASSES, SIZE, RUNS = 80, (640, 427), 9
CANDIDATES = (0, 500, 5_000, 50_000, 1_000_000)


def main() -> None:
    """Print a table in Markdown."""
    torch.set_num_threads(1)
    priors = prior_boxes("m2det512-vgg16")
    print("| candidates | NMS | class by class, ms | at once, ms | ratio |\n|---|---|---|---|---|")
    for count in CANDIDATES:
        random = torch.Generator().manual_seed(count)
        loc = 0.7 * torch.randn(len(priors), 4, generator=random)
        conf = torch.randn(len(priors), CLASSES + 1, generator=random)
        scores = conf.softmax(-1)[:, 1:].flatten()
        threshold = scores.kthvalue(len(scores) - count).values.item()
        for method in ("linear", "hard"):
            arguments = (loc, conf, priors, SIZE, method, threshold, 0.3, 50, 100)
            np.testing.assert_array_equal(postprocess(*arguments), slow_postprocess(*arguments))
            before, after = fastest(partial(slow_postprocess, *arguments), partial(postprocess, *arguments))
            print(f"| {count:,} | {method} | {before:.1f} | {after:.1f} | {before / after:.2f} |", flush=True)


def fastest(*functions: Callable[[], object]) -> list[float]:
    """Return the least CPU milliseconds of each function, called in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(RUNS):
        for function, measured in zip(functions, times, strict=True):
            start = time.thread_time()
            function()
            measured.append(1000 * (time.thread_time() - start))
    return [min(measured) for measured in times]


if __name__ == "__main__":
    main()
