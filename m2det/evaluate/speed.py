"""The speed of an evaluation's detection: images per second, and what they were measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from m2det.config import EvaluateParams
from m2det.device import device_name
from m2det.files.whole import write_whole
from m2det.model import M2Det

NAME = "detection_speed.json"


def write_speed(
    folder: Path,
    model: M2Det,
    images: int,
    seconds: float,
    settings: EvaluateParams,
    device: torch.device,
    processes: int,
    load: float | None,
) -> None:
    """Write NAME: images per second of all processes together, from the packed images to boxes after NMS.

    Args:
        folder: to write into.
        model: that detected.
        images: number of images.
        seconds: from the first image to the last.
        settings: of the evaluation.
        device: of each process.
        processes: that shared the images.
        load: the machine's load average of the minute before; None where the platform has none.
    """
    speed = {
        "img_per_s": round(images / seconds, 2),
        "images": images,
        "seconds": round(seconds, 2),
        "processes": processes,
        "batch_size": settings.batch_size,
        "precision": str(next(model.parameters()).dtype)[6:],
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "load_average": None if load is None else round(load, 2),
        "torch": str(torch.__version__),
    }
    write_whole(folder / NAME, json.dumps(speed, indent=2) + "\n")


def describe_speed(speed: Mapping[str, Any]) -> list[str]:
    """Return sentences on what `write_speed` wrote."""
    load = speed["load_average"]
    each = "processes, each with" if speed["processes"] > 1 else "process with"
    return [
        f"{speed['img_per_s']:g} images per second: {speed['images']:,} images in {speed['seconds']:g} s, from the "
        "packed images to boxes after non-maximum suppression, start included.",
        f"{speed['precision']}, batches of {speed['batch_size']}, {speed['processes']} {each} {speed['device_name']}, "
        f"torch {speed['torch']}.",
        "The machine's load average of the minute before is not known."
        if load is None
        else f"The machine's load average of the minute before: {load:g}; above 1 or so, other programs ran, too.",
    ]
