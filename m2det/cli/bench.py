"""`m2det bench`: measure the network, the training step, its memory and the loader on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from m2det.cli.arguments import DEVICES, positive_int
from m2det.text import print_log, printable


def add_parser(subparsers: Any) -> None:
    bench = subparsers.add_parser("bench", help="measure how fast this machine is")
    parts = bench.add_subparsers(title="parts", required=True, metavar="PART")
    network = parts.add_parser("network", help="forward and backward: plain float32 against the way training runs them")
    network.add_argument("--model", default="m2det320-vgg16", metavar="NAME", help="(default %(default)s)")
    network.add_argument("--batch", type=positive_int, default=2, help="images (default %(default)s)")
    network.add_argument("--rounds", type=positive_int, default=5, help="the fastest counts (default %(default)s)")
    network.add_argument("--device", choices=DEVICES, default="auto")
    network.set_defaults(run=_network)
    training = parts.add_parser("training", help="training steps without a loader: img/s, MFU, memory")
    training.add_argument("--model", default="m2det512-vgg16", metavar="NAME", help="(default %(default)s)")
    training.add_argument("--batch", type=positive_int, nargs="+", default=[16], help="images (default 16)")
    training.add_argument("--dtype", nargs="+", choices=("float32", "float16", "bfloat16"), default=["float16"])
    training.add_argument("--compile", action="store_true", help="measure each also with torch.compile")
    training.add_argument("--device", choices=DEVICES, default="auto")
    training.set_defaults(run=_training)
    memory = parts.add_parser("memory", help="the largest train.microbatch for which there is memory")
    memory.add_argument("--params", default="params.yaml", metavar="FILE", help="(default %(default)s)")
    memory.add_argument("--classes", type=positive_int, default=80, help="of the data set (default %(default)s)")
    memory.set_defaults(run=_memory)
    loader = parts.add_parser("loader", help="training samples per second and core, against the original's loader")
    loader.add_argument("--images", type=Path, metavar="DIR", help="of JPEGs (default: crops of two photographs)")
    loader.add_argument("--size", type=positive_int, default=512, help="side of the samples, px (default %(default)s)")
    loader.add_argument("--rounds", type=positive_int, default=5, help="the fastest counts (default %(default)s)")
    loader.set_defaults(run=_loader)


def _network(arguments: argparse.Namespace) -> None:
    from m2det.bench.step import forward_backward
    from m2det.device import choose_device, device_name

    print_log()
    device = choose_device(arguments.device)
    seconds = forward_backward(arguments.model, arguments.batch, device, arguments.rounds)
    print(f"{arguments.model}, batch {arguments.batch}, on {device_name(device)}, forward and backward:")
    print(f"plain (NCHW, float32)   {seconds['plain']:.3f} s")
    print(f"as training does it     {seconds['training']:.3f} s, {seconds['training'] / seconds['plain']:.0%} of it")


def _training(arguments: argparse.Namespace) -> None:
    from itertools import product

    from m2det.bench.step import training_rate
    from m2det.device import choose_device, device_name

    print_log()
    device = choose_device(arguments.device)
    print(f"training {arguments.model} on {device_name(device)}:")
    for options in product(arguments.batch, arguments.dtype, (False, True)[: 1 + arguments.compile]):
        print(training_rate(arguments.model, *options, device), flush=True)


def _memory(arguments: argparse.Namespace) -> None:
    from m2det.bench.memory import find_microbatch
    from m2det.progress import print_line

    print_log()
    microbatch = find_microbatch(arguments.params, arguments.classes, print_line)
    print(f"  microbatch: {microbatch}    # in section train of {printable(arguments.params)}")


def _loader(arguments: argparse.Namespace) -> None:
    from m2det.bench.loader import bench_loader

    print_log()
    rates = bench_loader(arguments.images, arguments.size, arguments.rounds)
    baseline = next(iter(rates.values()))
    print(f"img/s at {arguments.size} px, per CPU second of one core; the loader's per second of wall-clock time:")
    for name, rate in rates.items():
        print(f"{name:<22} {rate:7.1f}  {rate / baseline:5.2f} x")
