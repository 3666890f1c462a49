"""Floating-point operations of a network, and the share of the devices' peak that a training reaches (MFU)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from m2det.device import device_name, peak_memory
from m2det.model import M2Det, build_model

# Dense operations per second in low precision, by a part of the device's name; the first match counts.
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
    """Return the floating-point operations of one image's forward pass; a multiply-add is two.

    Counts convolutions and matrix products, as torch does, from shapes alone (device meta).
    """
    with torch.device("meta"):
        meta_model = build_model(model.config, model.num_classes).eval()
        images = torch.empty(1, 3, model.config.size, model.config.size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        meta_model(images)
    total: int = counter.get_total_flops()
    return total


@dataclass(frozen=True)
class Cost:
    """The cost of a training.

    Attributes:
        flops: Operations of training on one image: 3 times the forward pass.
        peak: Operations per second of all devices together; 0 if unknown.
        device: The device of this process.
    """

    flops: float
    peak: float
    device: torch.device

    def achieved(self, images_per_second: float) -> str:
        """Return as text the operations per second, their share of the peak (MFU), and this process's peak memory."""
        achieved = self.flops * images_per_second
        share = f" MFU {achieved / self.peak:.0%}" if self.peak else ""
        return f"{achieved / 1e12:.3g} TFLOP/s{share} mem {peak_memory(self.device) / 1e9:.1f} GB"


def peak_flops(device: torch.device) -> float:
    """Return the device's dense low-precision operations per second by its vendor's data sheet; 0 if unknown."""
    name = device_name(device)
    return next((peak for part, peak in PEAKS if re.search(rf"\b{part}\b", name)), 0.0)
