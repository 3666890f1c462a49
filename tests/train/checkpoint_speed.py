"""What a checkpoint of M2Det512 costs: `python -m tests.train.checkpoint_speed` (docs/benchmarks/checkpoint.md).

The state is that of a training with SGD at any step: weights and momentum. Both ways in turn, medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from m2det.distributed.lifetime import usable_cores
from m2det.model import build_model
from m2det.train.best_weights import save_best
from m2det.train.checkpoint import save_evaluation, save_state
from m2det.train.writer import BackgroundWriter, Writer
from tests.conftest import ROOT

EPOCHS = 160  # rows of the last one's checkpoint
ROW = {"epoch": 1, "step": 1000, "lr": 0.004, "loss_loc": 1.2345, "loss_conf": 2.3456, "AP": 0.1234, "AP50": 0.2345}


def state_of(model: torch.nn.Module) -> dict[str, Any]:
    """What a checkpoint holds, after a step whose gradients are zero."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.004, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    progress = {"rows": [ROW] * EPOCHS, "best": {"AP": 0.1, "epoch": 1, "file": ""}, "pending_evaluation": True}
    return progress | {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def longest_pause() -> float:
    """The longest time, in seconds, that Python's main thread did not run until the write had ended."""
    [writer] = [thread for thread in threading.enumerate() if thread.name == "checkpoint writer"]
    longest, last = 0.0, time.perf_counter()
    while writer.is_alive():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


def size_of(folder: Path, kind: str) -> int:
    return max(folder.glob(f"step-*.{kind}")).stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    arguments = parser.parse_args()
    model = build_model("m2det512-vgg16", 80)
    state = state_of(model)
    evaluation = {"progress": {key: state[key] for key in ("rows", "best", "pending_evaluation")}, "weights": {}}
    seconds = defaultdict[str, list[float]](list)
    (ROOT / "data").mkdir(exist_ok=True)  # in the checkout: /tmp may lie in memory
    with tempfile.TemporaryDirectory(dir=ROOT / "data") as name:
        folder = Path(name)

        def timed(title: str, call: Any) -> None:
            start = time.perf_counter()
            call()
            seconds[title].append(time.perf_counter() - start)

        for number in range(arguments.rounds):
            step = {"step": 3 * number + 1}
            at_once, background = Writer(), BackgroundWriter(lambda: None)
            timed("synchronous checkpoint", partial(at_once.write, partial(save_state, folder), state | step))
            evaluation["progress"] |= step
            timed("evaluation's record", partial(at_once.write, partial(save_evaluation, folder), evaluation))
            checkpoint, record = (size_of(folder, kind) for kind in ("pt", "evaluated"))
            timed("best weights, two copies", partial(save_best, folder, "best-000001.pt", model.state_dict()))
            for after, busy in ((2, False), (3, True)):
                start, step = time.perf_counter(), {"step": 3 * number + after}
                timed("a step waits (the copy)", partial(background.write, partial(save_state, folder), state | step))
                if busy:
                    seconds["longest pause of that Python"].append(longest_pause())
                background.finish()
                title = f"copy and write, Python {'always busy' if busy else 'idle'} meanwhile"
                seconds[title].append(time.perf_counter() - start)
    print(f"{usable_cores()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"checkpoint {checkpoint:,} bytes, evaluation's record of {EPOCHS} rows {record:,} bytes")
    for title, values in seconds.items():
        print(f"{title:<44} {statistics.median(values):7.3f} s (from {min(values):.3f} to {max(values):.3f})")
    median = {title: statistics.median(values) for title, values in seconds.items()}
    whole, added = median["synchronous checkpoint"], median["evaluation's record"]
    print(f"a step waits {median['a step waits (the copy)'] / whole:.2f} of the synchronous time")
    print(
        f"an evaluated epoch against two checkpoints: {(checkpoint + record) / (2 * checkpoint):.3f} of the bytes, "
        f"{(whole + added) / (2 * whole):.3f} of the synchronous time"
    )


if __name__ == "__main__":
    main()
