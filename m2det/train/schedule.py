"""The original's learning rate: linear warm-up, then steps at milestones (fractions of the epochs) or a cosine."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi

WARMUP_START_LR = 1e-6  # the original's end_lr


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
    """Return the learning rate; the defaults are the original's for 512 px on COCO.

    Args:
        epoch: from 0.
        fraction: of this epoch done, in [0,1).
        epochs: of the whole training.
        base: the learning rate after the warm-up.
        factors: of base, one per interval between milestones, so one more than milestones.
        milestones: fractions of epochs at which the next factor begins, for the schedule "steps".
        warmup: fraction of epochs during which the learning rate rises linearly from 1e-6 to base.
        schedule: "steps", or "cosine" for half a cosine from base to 0 (Loshchilov and Hutter 2017, equation 5 without
            restarts).
    """
    done = epoch + fraction
    if done < warmup * epochs:
        return WARMUP_START_LR + (base - WARMUP_START_LR) * done / (warmup * epochs)
    if schedule == "cosine":
        return base * (1 + cos(pi * (done - warmup * epochs) / (epochs - warmup * epochs))) / 2
    # 1e-9 compensates products such as 0.7 * 10 = 7.000000000000001
    passed = sum(epoch + 1e-9 >= milestone * epochs for milestone in milestones)
    return base * factors[passed]
