"""Build what a training consists of from its parameters."""

from __future__ import annotations

import torch

from m2det.config import PrecisionParams
from m2det.train.amp import Precision


def make_precision(params: PrecisionParams, device: torch.device) -> Precision:
    """By precision.backend. Raises InputError where apex is asked for and is not Ascend's."""
    if params.backend == "native":
        return Precision(params, device)
    from m2det.train.apex import ApexPrecision

    return ApexPrecision(params, device)
