"""Mixed precision: what O0 and O1 mean.

O0: float32 throughout. O1: the network under torch's autocast in the device's low-precision dtype; parameters, losses,
gradients and the optimizer in float32, as apex's O1. The device's autocast list decides which operator runs in which
dtype, with one exception: nearest upsampling keeps its input's dtype everywhere (m2det/model/mlfpn.py).

The loss scale multiplies the loss before the backward pass and divides the gradients after it: a power of two changes
no bit of a float32 gradient and keeps float16 gradients from vanishing. A static scale skips no step and never waits
for the device, as in apex. A dynamic one is torch's GradScaler: a step whose gradients overflow is skipped and halves
the scale; gradients are averaged over all processes, so all of them skip it. On an NPU that waits for the device once a
step, because the host reads there whether to skip.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from m2det.config import PrecisionParams
from m2det.device import TRAITS, autocast_dtype, supports_foreach
from m2det.errors import InputError
from m2det.train.foreach import multiply_

MIN_LOSS_SCALE = 2.0**-14  # with a lower one no gradient is left to train with


class Precision:
    """Autocast, loss scaling and the optimizer's step of one training.

    Attributes:
        dtype: what the network computes in.
        reason: why dtype was chosen.
        low_precision: whether dtype is not float32.
    """

    def __init__(self, params: PrecisionParams, device: torch.device) -> None:
        self.device = device
        self.dtype, self.reason = (
            (torch.float32, "opt_level is O0") if params.opt_level == "O0" else autocast_dtype(device, params.dtype)
        )
        self.low_precision = self.dtype != torch.float32
        self.dynamic = self.low_precision and params.loss_scale == "dynamic"
        self._static = 1.0 if params.loss_scale == "dynamic" or not self.low_precision else params.loss_scale
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.dynamic)
        self._foreach = supports_foreach(device)
        self._backup: list[Tensor] = []  # the weights before a step, where the optimizer cannot skip one

    def __str__(self) -> str:
        scale = "dynamic" if self.dynamic else f"{self._static:g}"
        return f"{str(self.dtype)[6:]} ({self.reason}), loss scale {scale}"

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Change model and optimizer in place, once, before the model is wrapped for several processes."""

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the network, and nothing else, runs."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.low_precision)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the scaled loss."""
        (self._scaler.scale(loss) if self.dynamic else loss * self._static).backward()

    def step(self, optimizer: torch.optim.Optimizer, max_grad_norm: float, skip: Tensor) -> None:
        """Unscale and clip the gradients and update the weights, without host synchronization.

        Args:
            optimizer: fused ones read `skip` on the device, under the name that GradScaler uses.
            max_grad_norm: 0 for no clipping.
            skip: bool scalar on the device; true leaves the weights as they are.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        if self.dynamic:
            # the scaler skips a step with gradients that are not finite
            multiply_(gradients, torch.where(skip, torch.nan, 1.0), self._foreach)
            self._scaler.unscale_(optimizer)
        elif self._static != 1.0:
            multiply_(gradients, 1.0 / self._static, self._foreach)
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm, foreach=self._foreach)
        if self.dynamic:
            self._scaler.step(optimizer)
            self._scaler.update()
        elif optimizer.defaults["fused"] and TRAITS[self.device.type].fused_supports_found_inf:
            optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
            optimizer.step()
        else:
            self._backup = self._backup or [torch.empty_like(p, requires_grad=False) for p in parameters]
            for old, parameter in zip(self._backup, parameters, strict=True):
                old.copy_(parameter.detach())  # not by a list: CANN's documents of that kernel contradict each other
            optimizer.step()
            for parameter, old in zip(parameters, self._backup, strict=True):
                parameter.data.copy_(torch.where(skip, old, parameter.data))

    def loss_scale(self) -> float:
        """Return the current loss scale; a dynamic one waits for the device.

        Raises:
            InputError: gradients overflow with the lowest scale.
        """
        scale: float = self._scaler.get_scale() if self.dynamic else self._static
        if scale < MIN_LOSS_SCALE:
            raise InputError(
                f"the loss scale has fallen to {scale:g}: gradients overflow with every scale; lower train.lr, set "
                "train.max_grad_norm, or use precision.dtype bfloat16"
            )
        return scale

    def state_dict(self) -> dict[str, Any]:
        """Return what a dynamic scale needs to resume."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume a dynamic scale; a state saved by a run in float32 is empty and leaves the scale as it is."""
        if self.dynamic and state:
            self._scaler.load_state_dict(state)
