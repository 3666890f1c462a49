"""What is done to images on the device before the network: subtract the mean, set the memory format."""

from __future__ import annotations

from functools import cache

import torch

from m2det.device import TRAITS

MEAN_BGR = (104, 117, 123)  # of ImageNet, as VGG was trained; canvases are filled with it


def subtract_mean(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 [B,3,S,S] BGR on the device -> float32 minus the mean, in the device's memory format."""
    return to_memory_format(images.float() - _mean_on(device), device)


@cache
def _mean_on(device: torch.device) -> torch.Tensor:
    """Once: a copy from memory that is not pinned waits for the device."""

    with torch.inference_mode(False):
        return torch.tensor(MEAN_BGR, dtype=torch.float32)[:, None, None].to(device)


def to_memory_format(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The images in the memory format that suits the device."""
    return images.contiguous(memory_format=torch.channels_last) if TRAITS[device.type].channels_last else images
