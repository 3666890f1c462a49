"""Mixed precision: what O0 and O1 mean.

O0: float32 throughout. O1: the network under torch's autocast in the device's half type; parameters, losses,
gradients and the optimizer in float32, as apex's O1. Which operators run in which type is the device's autocast
list's to say, with one exception: nearest upsampling keeps its input's type everywhere (m2det/model/mlfpn.py).

The loss scale multiplies the loss before the backward pass and divides the gradients after it: a power of two
changes no bit of a float32 gradient and keeps float16's from vanishing. A static one skips no step and never
waits for the device, as apex did. A dynamic one is torch's GradScaler: a step whose gradients overflow is left
out and halves the scale; gradients are summed over all processes, so all of them leave it out. On an NPU that
waits for the device once a step, which reads there whether to leave it out.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from m2det.config import PrecisionParams
from m2det.device import TRAITS, autocast_dtype
from m2det.errors import InputError

log = logging.getLogger(__name__)

LEAST_SCALE = 2.0**-14  # below it no gradient is left to train with


class Precision:
    """How one training computes. `state` is what must survive an interruption."""

    def __init__(self, params: PrecisionParams, device: torch.device) -> None:
        self.device = device
        self.dtype, reason = (
            (torch.float32, "opt_level is O0") if params.opt_level == "O0" else autocast_dtype(device, params.dtype)
        )
        self.half = self.dtype != torch.float32
        self.dynamic = self.half and params.loss_scale == "dynamic"
        static = 1.0 if params.loss_scale == "dynamic" or not self.half else params.loss_scale
        self._static = static
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.dynamic)
        self._before: list[Tensor] = []  # the weights before a step, where the optimizer cannot leave one out
        scale = "dynamic" if self.dynamic else f"{static:g}"
        log.info("precision: %s (%s), loss scale %s", str(self.dtype)[6:], reason, scale)

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Once, before the model is wrapped for several processes."""

    def autocast(self) -> AbstractContextManager[None]:
        """Around the network alone."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.half)

    def backward(self, loss: Tensor) -> None:
        (self._scaler.scale(loss) if self.dynamic else loss * self._static).backward()

    def step(self, optimizer: torch.optim.Optimizer, max_grad_norm: float, skip: Tensor) -> None:
        """Unscale, clip the gradient to max_grad_norm (0: leave it), update unless skip, without host synchronization.

        skip: bool scalar on the device. The fused optimizers read it there, under the name that GradScaler uses.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        if self.dynamic:
            # a gradient that is not finite is what the scaler looks for
            torch._foreach_mul_(gradients, torch.where(skip, torch.nan, 1.0))
            self._scaler.unscale_(optimizer)
        elif self._static != 1.0:
            torch._foreach_mul_(gradients, 1.0 / self._static)
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm, foreach=True)
        if self.dynamic:
            self._scaler.step(optimizer)
            self._scaler.update()
        elif optimizer.defaults["fused"] and TRAITS[self.device.type].fused_supports_found_inf:
            optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
            optimizer.step()
        else:
            self._before = self._before or [torch.empty_like(p, requires_grad=False) for p in parameters]
            torch._foreach_copy_(self._before, [p.detach() for p in parameters])
            optimizer.step()
            for parameter, old in zip(parameters, self._before, strict=True):
                parameter.data.copy_(torch.where(skip, old, parameter.data))

    def loss_scale(self) -> float:
        """Now. Waits for the device where it is dynamic; raises InputError where gradients overflow at any scale."""
        scale: float = self._scaler.get_scale() if self.dynamic else self._static
        if scale < LEAST_SCALE:
            raise InputError(
                f"the loss scale has fallen to {scale:g}: gradients overflow whatever it is; lower train.lr, set "
                "train.max_grad_norm, or use precision.dtype bfloat16"
            )
        return scale

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.dynamic and state:  # none of a run that computed in float32 so far
            self._scaler.load_state_dict(state)
