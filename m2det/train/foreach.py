"""Operations on lists of tensors, by torch's foreach operators or one tensor after the other: the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def multiply_(tensors: list[Tensor], factor: float | Tensor, foreach: bool) -> None:
    """Multiply each tensor by the factor, in place."""
    if foreach:
        torch._foreach_mul_(tensors, factor)
        return
    for tensor in tensors:
        tensor.mul_(factor)


def lerp_(tensors: list[Tensor], ends: list[Tensor], weight: float, foreach: bool) -> None:
    """Move each tensor by `weight` of the way to its end, in place."""
    if foreach:
        torch._foreach_lerp_(tensors, ends, weight)
        return
    for tensor, end in zip(tensors, ends, strict=True):
        tensor.lerp_(end, weight)
