"""Measure training on a CPU beside other programs: `python benchmarks/busy.py [--seconds 5] [--loads 0 1 2 8]`.

Each row is a number of endless loops that run beside it; each column a way to use the cores: one thread; a thread per
core, as OpenMP waits by default and as this project lets it wait; and a process of one thread per core, which average
their gradients and see a share of the images each. All train m2det-tiny by the recipe `digits` on one batch of random
images. The loops run in a session of their own, as the programs of another terminal do: Linux shares cores between
sessions. Prints images per second, and what they are of one thread's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from m2det.distributed.lifetime import usable_cores
from m2det.distributed.threads import SPIN_COUNT

IMAGES = 16  # of a step
CORES = min(usable_cores(), 8)  # each process has two images at least
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# name -> processes, threads of each, and environment variables
WAYS: dict[str, tuple[int, int, dict[str, str]]] = {
    "1 thread": (1, 1, {}),
    f"{CORES} threads, torch's waiting": (1, CORES, {}),
    f"{CORES} threads": (1, CORES, {"GOMP_SPINCOUNT": str(SPIN_COUNT)}),
    f"{CORES} processes": (CORES, 1, {}),
}


def main() -> None:
    """Measure every way beside every load, and print a table for each precision."""
    parser = argparse.ArgumentParser(description="Measure training on a CPU beside other programs.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default %(default)g)")
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 1, 2, 8], help="endless loops (default 0 1 2 8)")
    parser.add_argument("--levels", nargs="+", default=["O0", "O1"], help="precision.opt_level (default O0 O1)")
    parser.add_argument("--worker", nargs=2, metavar=("LEVEL", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        train_for(arguments.worker[0], float(arguments.worker[1]))
        return
    for level in arguments.levels:
        print(
            f"\n{level}: img/s (of 1 thread)\n| busy loops | " + " | ".join(WAYS) + " |\n|" + "---|" * (len(WAYS) + 1)
        )
        for load in arguments.loads:
            rates = []
            for way in WAYS:
                with busy_loops(load):
                    rates.append(measure(way, level, arguments.seconds))
            cells = " | ".join(f"{rate:.1f} ({rate / rates[0]:.2f})" for rate in rates)
            print(f"| {load} | {cells} |", flush=True)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Run endless loops in another session, which end with this process, also where that is killed."""
    loop = f"import os\nwhile os.getppid() == {os.getpid()}:\n    for _ in range(10**6): pass"
    loops = [subprocess.Popen([sys.executable, "-c", loop], start_new_session=i == 0) for i in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(way: str, level: str, seconds: float) -> float:
    """Return images per second of one way, in a session of its own."""
    processes, threads, environment = WAYS[way]
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    )
    inherited = {name: value for name, value in os.environ.items() if name not in WAITING}
    result = subprocess.run(
        [sys.executable, *launcher, __file__, "--worker", level, str(seconds)],
        env={**inherited, "OMP_NUM_THREADS": str(threads), **environment},
        start_new_session=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return float(result.stdout.split()[-1])


def train_for(level: str, seconds: float) -> None:
    """Train on one batch for some seconds; rank 0 prints the images per second of all processes."""
    import torch
    from train_digits import recipe

    from m2det.bench.step import repeated_step
    from m2det.data.batch import Batch
    from m2det.distributed.group import Group
    from m2det.model import build_model
    from m2det.train.build import build_parts

    params = recipe(epochs=1, seed=0)
    precision = params.precision.model_copy(update={"opt_level": level})
    device, group = torch.device("cpu"), Group.from_environment()
    group.init(device)
    model = build_model(params.model.name, 10, **params.model.all_overrides)
    parts = build_parts(model, params.train, precision, device, group, False)
    images, size = IMAGES // group.size, model.config.size
    corners = torch.rand(images, 4, 2) / 2
    batch = Batch(
        images=torch.randint(0, 255, (images, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2),
        boxes=torch.cat([corners, corners + 0.3], dim=2),
        labels=torch.randint(1, 11, (images, 4)),
        index=torch.arange(images),
    )
    step = repeated_step(parts, batch)
    for _ in range(3):
        step()
    done, begin = 0, time.perf_counter()
    while not group.all_reduce_any(torch.tensor(time.perf_counter() - begin > seconds)):
        done += step() * group.size
    if group.is_main_process:
        print(done / (time.perf_counter() - begin))
    group.destroy()


if __name__ == "__main__":
    main()
