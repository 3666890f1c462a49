"""Model a training on 1, 8 and n x 8 devices: `python benchmarks/scaling.py [--model NAME] [--microbatch 16]`.

Prints as Markdown what the model computes, and the inputs that it computes from. Every input is named as measured by
this project, published by others, or assumed; all results are computed. Change INPUTS to yours.

A step takes the longest of two: the loader's time for its images, and the device's, which is its forward and backward
passes plus the part of the all-reduce of gradients that the backward pass does not hide. The last bucket is never
hidden, as it is full when the backward pass ends. Not modelled: processes that wait for the slowest one, compilation,
start-up, reading a cold cache from a disk.

`--check` measures two processes with gloo on this machine, beside what the model says of them (scaling_check.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from scaling_model import BACKWARD, Link, Network, System, efficiency, image_seconds, predict


class Input(NamedTuple):
    """A number that the model takes; `kind` is measured (by this project), published (by others) or assumed."""

    value: float
    kind: str
    source: str


EPYC = "one core of an AMD EPYC, commit"
INPUTS = {
    "images of an epoch": Input(118_287, "published", "COCO: train2014 and valminusminival2014"),
    "images of an evaluation": Input(5_000, "published", "COCO: minival2014"),
    "epochs": Input(160, "published", "the recipe coco512-8p, which is the ModelZoo's"),
    "epochs between evaluations": Input(10, "published", "the same"),
    "steps between checkpoints": Input(500, "assumed", "run.save_every, the default"),
    "s, loading of an image": Input(1 / 363.4, "measured", f"docs/benchmarks/loader.md: {EPYC} 025203c"),
    "s, decoding for an evaluation": Input(1 / 440.9, "measured", "the same page, decoding and resizing"),
    "s, detections of an image": Input(7.9e-3, "measured", "docs/benchmarks/postprocessing.md: 5,000 candidates"),
    "s, COCO's metrics": Input(0.2, "measured", "hotcoco, 5,000 images, 109,000 detections, the same machine"),
    "s, waiting for a checkpoint": Input(0.156, "measured", "docs/benchmarks/checkpoint.md; the copy is a CPU's"),
    "bytes of the last bucket": Input(2e6, "measured", "docs/training.md, Several processes; M2Det320-VGG16"),
    "time on Kunpeng / on EPYC": Input(690 / 456, "published", "imread_benchmark: simplejpeg on Zen 4, Neoverse N1"),
    "share of a link's speed": Input(0.7, "assumed", "what an all-reduce reaches of the data sheet's"),
    "s, latency inside a host": Input(50e-6, "assumed", "of the all-reduce of one bucket"),
    "s, latency between hosts": Input(100e-6, "assumed", "the same"),
    "Ethernet, B/s of a host": Input(1.25e9, "assumed", "a network card of 10 Gb/s that all devices of a host share"),
    "910, img/s of 8": Input(60.997, "published", "README of the ModelZoo baseline: 8 x 910, 16 images each"),
    "910, FLOP/s": Input(256e12, "published", "Huawei, Ascend 910 (2019), float16"),
    "910, VGG16's share of it": Input(0.37, "published", "the ModelZoo's VGG16: 1,024 img/s x 92.9 GFLOP on 1 x 910"),
    "910, B/s inside": Input(31.5e9, "published", "PCIe 4.0 x16: it joins the two groups of 4 that HCCS connects"),
    "910, B/s between": Input(12.5e9, "published", "Huawei, Atlas 900 (2019): 100 Gb/s, a port for each device"),
    "910, cores": Input(96, "published", "the ModelZoo's train_full_8p.sh uses cores 0 to 95"),
    "910B, times a 910": Input(895 / 437, "published", "MindYOLO's README: yolov8s on 8 x 910B, on 8 x 910"),
    "910B, FLOP/s": Input(313e12, "published", "Huawei, Atlas 800T A2, 910B3, float16"),
    "910B, B/s inside": Input(196e9, "published", "7 links of 56 GB/s in both directions (a user's npu-smi and notes)"),
    "910B, B/s between": Input(25e9, "assumed", "200 Gb/s, a port for each device"),
    "910B, cores": Input(192, "published", "the same user's npu-smi: 24 cores for each of 8 devices"),
    "H100, s of 16 images": Input(0.0945, "measured", "docs/benchmarks/deterministic.md: one H200, commit 6df7a04"),
    "H100, B/s inside": Input(450e9, "published", "NVIDIA, HGX H100: 900 GB/s in both directions"),
    "H100, B/s between": Input(50e9, "published", "MLPerf's description of Dell's XE9680: 8 x 400 Gb/s"),
    "H100, cores": Input(104, "published", "the same: 2 x 52"),
}


def training_hours(system: System, network: Network, microbatch: int, hosts: int) -> float:
    """Return the hours of a whole training with its evaluations and checkpoints."""
    step, epochs = predict(system, network, microbatch, hosts), value("epochs")
    steps = value("images of an epoch") // step.images
    checkpoints = 1 + steps // value("steps between checkpoints")  # of an epoch
    devices = hosts * system.devices
    image = max((1 - BACKWARD) * system.image_s / devices, system.detect_s / system.loaders / hosts)
    evaluation = value("images of an evaluation") * image + value("s, COCO's metrics")
    evaluations = epochs // value("epochs between evaluations")
    waiting = checkpoints * value("s, waiting for a checkpoint")
    return (epochs * (steps * step.seconds + waiting) + evaluations * evaluation) / 3600


def value(name: str) -> float:
    """Return an input's number."""
    return INPUTS[name].value


def systems(network: Network, measured: Network) -> Iterator[tuple[str, System]]:
    """Yield names and systems.

    Args:
        network: to be trained.
        measured: M2Det512-VGG16, which the inputs' speeds are of; another network's image takes its share of FLOP.
    """

    def system(name: str, image_s: float, slower: float) -> System:
        reached = value("share of a link's speed")
        links = [
            Link(reached * value(f"{name}, B/s {where}"), value(f"s, latency {where_long}"))
            for where, where_long in (("inside", "inside a host"), ("between", "between hosts"))
        ]
        detect_s = value("s, decoding for an evaluation") + value("s, detections of an image")
        devices = 8
        loaders, load_s = value(f"{name}, cores") - devices, value("s, loading of an image")
        scaled = image_s * network.flops / measured.flops
        last = value("bytes of the last bucket")
        return System(scaled, devices, loaders, slower * load_s, slower * detect_s, *links, last)

    kunpeng, share = value("time on Kunpeng / on EPYC"), value("910, VGG16's share of it")
    original = image_seconds(8 * 16 / value("910, img/s of 8"), system("910", 0, kunpeng), measured, 16)
    yield "910, the ModelZoo's speed", system("910", original, kunpeng)
    yield "910 at 37 % of its peak", system("910", measured.flops / share / value("910, FLOP/s"), kunpeng)
    yield "910B, 2.05 times a 910", system("910B", original / value("910B, times a 910"), kunpeng)
    yield "910B at 37 % of its peak", system("910B", measured.flops / share / value("910B, FLOP/s"), kunpeng)
    yield "H100, an H200's step", system("H100", value("H100, s of 16 images") / 16, 1.0)


@cache
def network_of(name: str) -> Network:
    """Return what a training of a named network with 80 classes computes and exchanges."""
    import torch

    from m2det.model import build_model
    from m2det.model.flops import forward_flops

    with torch.device("meta"):
        model = build_model(name, 80)
    return Network(3.0 * forward_flops(model), 4.0 * sum(p.numel() for p in model.parameters()))


def table(name: str, microbatch: int) -> str:
    """Return what the model computes, as a table in Markdown."""
    network, measured = network_of(name), network_of("m2det512-vgg16")
    head = (
        f"Computed: {name}, {microbatch} images per device, {network.flops / 1e12:.2f} TFLOP an image, "
        f"{network.gradients / 1e6:.0f} MB of gradients.\n\n"
        "| devices | hosts | step, s | img/s | efficiency | all-reduce, s | of it waited for, s | bound by "
        "| loader cores per device | 160 epochs, h | img/s with Ethernet |\n" + "|---" * 11 + "|"
    )
    lines = [head.replace("160", f"{value('epochs'):.0f}")]
    for label, system in systems(network, measured):
        slow = value("share of a link's speed") * value("Ethernet, B/s of a host") / system.devices
        ethernet = replace(system, between=Link(slow, system.between.latency))
        for hosts in (1, 2, 8):
            step = predict(system, network, microbatch, hosts)
            used = system.load_s * step.rate / (hosts * system.devices)
            lines.append(
                f"| {label} | {hosts} x 8 | {step.seconds:.4f} | {step.rate:.0f} "
                f"| {efficiency(system, network, microbatch, hosts):.1%} | {step.all_reduce:.4f} | {step.exposed:.4f} "
                f"| {step.bound} | {used:.2f} | {training_hours(system, network, microbatch, hosts):.1f} "
                f"| {predict(ethernet, network, microbatch, hosts).rate:.0f} |"
            )
    return "\n".join(lines)


def inputs_table() -> str:
    """Return the inputs with their sources, as a table in Markdown."""
    numbers = {name: f"{x:,}" if isinstance(x, int) else f"{x:.5g}" for name, (x, _, _) in INPUTS.items()}
    rows = [f"| {name} | {numbers[name]} | {known.kind} | {known.source} |" for name, known in INPUTS.items()]
    return "\n".join(["| input | value | | source |\n|---|---|---|---|", *rows])


def main() -> None:
    """Print both tables, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="m2det512-vgg16", help="default %(default)s")
    parser.add_argument("--microbatch", type=int, default=16, help="images of each device in a step, default 16")
    parser.add_argument("--check", action="store_true", help="measure two processes with gloo on this machine")
    arguments = parser.parse_args()
    if arguments.check:
        from scaling_check import check

        check()
        return
    print(table(arguments.model, arguments.microbatch), inputs_table(), sep="\n\n")


if __name__ == "__main__":
    main()
