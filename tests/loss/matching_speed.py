"""`python -m tests.loss.matching_speed`: seconds and memory of matching boxes with priors (docs/benchmarks/loss.md).

In portions, as the objective `multibox` does, and all boxes at once, as it did before: in turn, and each in a process
of its own for the peak of memory. 32,760 priors.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from m2det.boxes import cxcywh_to_xyxy, iou_xyxy
from m2det.loss import match
from m2det.model import prior_boxes


def match_at_once(priors_xyxy, boxes, labels, iou_threshold):
    valid = labels > 0
    iou = iou_xyxy(boxes, priors_xyxy).masked_fill_(~valid[:, :, None], -1.0)
    best_iou, best_truth = iou.max(dim=1)
    best_prior = iou.argmax(dim=2)
    number = torch.arange(1, boxes.shape[1] + 1, device=boxes.device) * valid
    last = ((best_prior[:, :, None] == best_prior[:, None, :]) * number[:, None, :]).amax(dim=2)
    claimed_by = torch.zeros_like(best_truth).scatter_(1, best_prior, last)
    best_truth = torch.where(claimed_by > 0, claimed_by - 1, best_truth)
    positive = (claimed_by > 0) | (best_iou >= iou_threshold)
    return boxes.gather(1, best_truth[..., None].expand(-1, -1, 4)), labels.gather(1, best_truth) * positive


WAYS = {"in portions": match, "at once": match_at_once}


def arguments_of(images, objects, device):
    """Boxes of the crowded first image, and 7 of each other one, padded as a batch is."""
    padded = 16
    while padded < objects:
        padded *= 2
    torch.manual_seed(0)
    corners = torch.rand(images, padded, 2) * 0.6
    boxes = torch.cat([corners, corners + torch.rand(images, padded, 2) * 0.38 + 0.02], -1)
    labels = torch.randint(1, 81, (images, padded))
    labels[0, objects:] = 0
    labels[1:, 7:] = 0
    boxes *= (labels > 0)[..., None]
    priors = cxcywh_to_xyxy(prior_boxes("m2det512-vgg16"))
    return priors.to(device), boxes.to(device), labels.to(device), 0.5


def seconds(way, arguments, device):
    """On a CPU of CPU time, which leaves out what else the machine does."""
    if device == "cpu":
        start = time.process_time()
        way(*arguments)
        return time.process_time() - start
    torch.accelerator.synchronize()
    start = time.perf_counter()
    way(*arguments)
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def in_turn(arguments, device, first):
    """The seconds of both ways, of which another one begins each time: the second finds other caches."""
    order = list(WAYS)[::-1] if first else list(WAYS)
    taken = {way: seconds(WAYS[way], arguments, device) for way in order}
    return [taken[way] for way in WAYS]


def peak(arguments, way):
    """Print by how many bytes a process's memory grows."""
    before = highest_memory()
    WAYS[way](*arguments)
    print(highest_memory() - before)


def highest_memory():
    """Not getrusage's, in which a process begins with that of its starter."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--images", type=int, default=16, help="of a microbatch (default %(default)s)")
    parser.add_argument("--objects", type=int, nargs="+", default=[16, 500], help="(default %(default)s)")
    parser.add_argument("--peak", choices=WAYS, help="print one way's bytes for the first of --objects, on a CPU")
    options = parser.parse_args()
    if options.peak:
        return peak(arguments_of(options.images, options.objects[0], "cpu"), options.peak)
    print(f"{options.device}, {torch.get_num_threads()} threads, {options.images} images, medians of {options.rounds}:")
    for objects in options.objects:
        arguments = arguments_of(options.images, objects, options.device)
        assert all(map(torch.equal, match(*arguments), match_at_once(*arguments)))
        times = [in_turn(arguments, options.device, first=number % 2) for number in range(options.rounds)]
        ratio = statistics.median(new / old for new, old in times)
        print(f"{objects} objects: {ratio:.2f} times the time at once")
        for way, column in zip(WAYS, zip(*times, strict=True), strict=True):
            command = [sys.executable, "-m", "tests.loss.matching_speed", "--images", str(options.images)]
            command += ["--objects", str(objects), "--peak", way]
            used = peak_of(command, options.device)
            print(f"  {way}: {statistics.median(column):.4f} s, {used}")
    return None


def peak_of(command, device):
    if device != "cpu":
        return "memory not measured"
    # every large block by itself, so that the gaps of a heap, which depend on the blocks' order, are left out
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return f"{int(done.stdout) / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
