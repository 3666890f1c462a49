"""Whether equal trainings give equal bits on a device: `python benchmarks/deterministic.py --device cuda`.

Trains the same steps on the same random images three times, with and without torch's deterministic algorithms, for both
objectives, and prints a hash of all weights and the median milliseconds of a step. Needs torch and this project alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import time

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # as run.deterministic sets it, before torch loads

import torch

from m2det.loss import AlignedLoss, MultiBoxLoss, Objective
from m2det.model import build_model, prior_boxes

CLASSES, BOXES = 80, 16


def train(name: str, objective: Objective, images_per_step: int, steps: int, device: str) -> tuple[str, float]:
    """Return the hash of the weights after the steps, and the median milliseconds of a step."""
    torch.manual_seed(1)
    layout = torch.channels_last
    model = build_model(name, CLASSES, sfam=True).to(device, memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, 0.9, fused=True)
    size, random = model.config.size, torch.Generator().manual_seed(2)
    images = torch.randint(-120, 120, (images_per_step, 3, size, size), generator=random).float()
    images = images.to(device, memory_format=layout)
    corners = torch.rand(images_per_step, BOXES, 2, generator=random) * 0.6
    sides = 0.1 + torch.rand(images_per_step, BOXES, 2, generator=random) * 0.25
    boxes = torch.cat([corners, corners + sides], 2).to(device)
    labels = torch.randint(1, CLASSES + 1, (images_per_step, BOXES), generator=random).to(device)
    priors, seconds = prior_boxes(model.config).to(device), []
    for _ in range(steps):
        start = time.perf_counter()
        targets = objective.targets(priors, boxes, labels)
        with torch.autocast(device, torch.bfloat16 if device == "cpu" else torch.float16):
            outputs = model(images)
        losses = objective.compute(outputs, targets, targets.num_positives.clamp(min=1))
        optimizer.zero_grad()
        (losses["loc"] + losses["conf"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 4.0)
        optimizer.step()
        if device != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
    content = b"".join(value.cpu().contiguous().numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(content).hexdigest()[:8], statistics.median(seconds) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="m2det512-vgg16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    for objective in (MultiBoxLoss(), AlignedLoss()):
        for wanted in (False, True, False, True):
            torch.use_deterministic_algorithms(wanted)
            runs = [
                train(arguments.model, objective, arguments.batch, arguments.steps, arguments.device) for _ in range(3)
            ]
            text = ", ".join(f"{digest} {milliseconds:.1f} ms" for digest, milliseconds in runs)
            print(f"{type(objective).__name__}, deterministic {wanted}: {text}", flush=True)


if __name__ == "__main__":
    main()
