"""Prior boxes (SSD, section 2.2, with M2Det's sizes)."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2det.model.config import M2DetConfig, get_config


def prior_boxes(name_or_config: str | M2DetConfig, **overrides: Any) -> Tensor:
    """Return the prior boxes: float32 [P,4] cxcywh in [0,1], ordered by map (largest first), row, column, anchor.

    The anchors of a cell are squares of the map's size s and of sqrt(s * next map's s), then boxes of size s with
    aspect ratios 2, 1/2, 3, 1/3.

    Args:
        name_or_config: As for get_config.
        **overrides: Fields of M2DetConfig.
    """
    config = get_config(name_or_config, **overrides)
    boxes = []
    for k, (side, step) in enumerate(zip(config.feature_sizes, config.steps, strict=True)):
        centers = (np.arange(side) + 0.5) * step / config.size
        cy, cx = np.meshgrid(centers, centers, indexing="ij")
        s, s_next = config.prior_sizes[k : k + 2]
        s_mean = sqrt(s * s_next)
        shapes = [(s, s), (s_mean, s_mean)]
        for ratio in (2, 3):
            shapes += [(s * sqrt(ratio), s / sqrt(ratio)), (s / sqrt(ratio), s * sqrt(ratio))]
        wh = np.broadcast_to(np.array(shapes), (side, side, len(shapes), 2))
        center = np.broadcast_to(np.stack([cx, cy], -1)[:, :, None], wh.shape)
        boxes.append(np.concatenate([center, wh], -1).reshape(-1, 4))
    return torch.from_numpy(np.concatenate(boxes).clip(0, 1).astype(np.float32))
