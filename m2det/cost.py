"""What a network costs to compute, and how near a training comes to what its devices can do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from m2det.device import peak_memory
from m2det.model import M2Det, build_model


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
        return f"{done / 1e12:.3g} TFLOP/s{share} memory {peak_memory(self.device) / 1e9:.1f} GB"
