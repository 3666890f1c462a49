"""What a network costs to compute, and how near a training comes to what its devices can do."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from m2det.device import peak_memory
from m2det.model import M2Det, build_model

# Dense operations per second in the half type, by a part of the device's name; the first that fits.
PEAKS = (
    ("H200", 989e12),  # NVIDIA H200 data sheet: 1,979 TFLOP/s with sparsity
    ("H100 PCIe", 756e12),  # NVIDIA H100 data sheet: 1,513 with sparsity
    ("H100", 989e12),  # the same, SXM: 1,979 with sparsity
    ("A100", 312e12),  # NVIDIA A100 data sheet
    ("L40S", 362e12),  # NVIDIA L40S data sheet: 733 with sparsity
    ("L4", 121e12),  # NVIDIA L4 data sheet: 242 with sparsity
    ("V100", 125e12),  # NVIDIA V100 data sheet, SXM2
    ("Ascend910B2", 376e12),  # Huawei, Atlas 800T A2
    ("Ascend910B3", 313e12),  # the same
    ("Ascend910A", 256e12),  # Huawei, Ascend 910 (2019)
)


def forward_flops(model: M2Det) -> int:
    """Floating-point operations (a multiplication and an addition are two) of one image's forward pass.

    Counted on shapes alone; convolutions and matrix products, as torch counts them.
    """
    with torch.device("meta"):
        twin = build_model(model.config, model.num_classes).eval()
        images = torch.empty(1, 3, model.config.size, model.config.size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        twin(images)
    total: int = counter.get_total_flops()
    return total


@dataclass(frozen=True)
class Cost:
    """flops: of training on one image, 3 times the forward pass; peak: what all devices together can do a second,
    0 where that is not known."""

    flops: float
    peak: float
    device: torch.device

    def achieved(self, images_per_second: float) -> str:
        """Operations per second, their share of the peak (MFU), and the most memory this process has had."""
        done = self.flops * images_per_second
        share = f" MFU {done / self.peak:.0%}" if self.peak else ""
        return f"{done / 1e12:.3g} TFLOP/s{share} mem {peak_memory(self.device) / 1e9:.1f} GB"


def peak_flops(device: torch.device) -> float:
    """Operations per second that the device can do in its half type, as its vendor says; 0 where it is not known."""
    if device.type == "cpu":
        return 0.0
    name = torch.get_device_module(device.type).get_device_name(device)
    return next((peak for part, peak in PEAKS if re.search(rf"\b{part}\b", name)), 0.0)
