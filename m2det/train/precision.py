"""Mixed precision: what O0 and O1 mean.

O0: float32 throughout. O1: the network under torch's autocast in the device's half type; parameters, losses,
gradients and the optimizer in float32, as apex's O1. The loss scale is static: it multiplies the loss before
the backward pass and divides the gradients after it, skips no step and never waits for the device, as apex did.
A power of two changes no bit of a float32 gradient; it keeps float16's from vanishing.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from m2det.config import PrecisionParams
from m2det.device import half_type

log = logging.getLogger(__name__)


class Precision:
    """How one training computes."""

    def __init__(self, params: PrecisionParams, device: torch.device) -> None:
        self.device = device
        self.dtype, reason = (
            (torch.float32, "opt_level is O0") if params.opt_level == "O0" else half_type(device, params.dtype)
        )
        self.half = self.dtype != torch.float32
        self.loss_scale = params.loss_scale if self.half else 1.0
        log.info("precision: %s (%s), loss scale %g", str(self.dtype)[6:], reason, self.loss_scale)

    def autocast(self) -> AbstractContextManager[None]:
        """Around the network alone."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.half)

    def backward(self, loss: Tensor) -> None:
        (loss * self.loss_scale).backward()

    def step(self, optimizer: torch.optim.Optimizer, clip_norm: float, skip: Tensor) -> None:
        """Unscale, shorten the gradient to clip_norm (0: leave it), update unless skip; nothing waits for the device.

        skip: bool scalar on the device. The fused optimizers read it there, under the name that GradScaler uses.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.loss_scale != 1.0:
            torch._foreach_mul_([p.grad for p in parameters], 1.0 / self.loss_scale)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=True)
        optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
        optimizer.step()
