"""The original's learning rate: linear warm-up, then steps, milestones as fractions of the epochs; or a cosine."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi

FLOOR = 1e-6  # the warm-up's first value (the original's end_lr)


def learning_rate(
    epoch: int,
    fraction: float,
    *,
    epochs: int = 160,
    base: float = 0.004,
    factors: Sequence[float] = (1.0, 0.5, 0.1, 0.01, 0.001),
    milestones: Sequence[float] = (90 / 160, 110 / 160, 130 / 160, 150 / 160),
    warmup: float = 5 / 160,
    schedule: str = "steps",
) -> float:
    """The rate at `fraction` (in [0,1)) of epoch `epoch` (from 0); defaults: the original's 512 px on COCO.

    During the first warmup * epochs epochs the rate rises from 1e-6 to base; then it is base times the factor
    of the stretch that the epoch, as a whole, lies in: one factor more than milestones; with schedule "cosine"
    half a cosine from base down to 0 at the end (Loshchilov and Hutter 2017, equation 5 without restarts).
    """
    done = epoch + fraction
    if done < warmup * epochs:
        return FLOOR + (base - FLOOR) * done / (warmup * epochs)
    if schedule == "cosine":
        return base * (1 + cos(pi * (done - warmup * epochs) / (epochs - warmup * epochs))) / 2
    # the small number forgives products such as 0.7 * 10 = 7.000000000000001
    passed = sum(epoch + 1e-9 >= milestone * epochs for milestone in milestones)
    return base * factors[passed]
