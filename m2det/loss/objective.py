"""What the training step asks of a training objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn

MAX_ELEMENTS = 2**23  # of a temporary tensor: more boxes are worked on in portions


class Targets(Protocol):
    """What the boxes of a microbatch ask of the network, as far as that is known before its forward pass."""

    @property
    def num_positives(self) -> Tensor:
        """Priors that are to become boxes, int64 scalar on the device: what a loss is divided by."""
        ...


T = TypeVar("T", bound=Targets)


class Objective(nn.Module, ABC, Generic[T]):
    """Two losses of a microbatch, in two parts around the network's forward pass.

    The divisor is known after the first part: all microbatches of a step, and all processes, can agree on one before
    the first backward pass. Every tensor's shape follows from the batch's shape, and no operator waits for the device.
    """

    def forward(self, outputs: dict[str, Tensor], priors: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return both losses, each divided by the microbatch's number of positives (at least 1).

        Args:
            outputs: `loc` [B,P,4] encoded, `conf` [B,P,C+1] logits, background first.
            priors: float32 [P,4] cxcywh in [0,1].
            boxes: float32 [B,G,4] xyxy in [0,1], padded with zeros.
            labels: int64 [B,G], 0 = padding.

        Returns:
            float32 scalars `loc` and `conf`.
        """
        targets = self.targets(priors, boxes, labels)
        return self.compute(outputs, targets, targets.num_positives.clamp(min=1))

    @abstractmethod
    def targets(self, priors: Tensor, boxes: Tensor, labels: Tensor) -> T:
        """Return what priors, boxes and labels, as forward takes them, ask of the network; without gradient."""

    @abstractmethod
    def compute(self, outputs: dict[str, Tensor], targets: T, normalizer: Tensor) -> dict[str, Tensor]:
        """Return both losses as forward does, divided by the scalar `normalizer` instead."""
