"""Preprocessing of images on the device: subtract the mean, set the memory format."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from m2det.device import to_memory_format

MEAN_BGR = (104, 117, 123)  # of ImageNet, as VGG was trained; padding has this color, too


def subtract_mean(images: Tensor, device: torch.device) -> Tensor:
    """Convert images to the network's input.

    Args:
        images: uint8 [B,3,S,S] BGR on the device.
        device: The device.

    Returns:
        float32 [B,3,S,S] minus the mean, in the device's memory format.
    """
    return to_memory_format(images.float() - _mean_on(device), device)


def mean_bgr() -> Tensor:
    """Return the mean as float32 [3,1,1]."""
    return torch.tensor(MEAN_BGR, dtype=torch.float32)[:, None, None]


@cache  # a copy from memory that is not pinned would wait for the device each time
def _mean_on(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return mean_bgr().to(device)
