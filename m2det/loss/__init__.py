"""The training objectives: what the network should output, and the losses. See `train.objective`."""

from m2det.loss.aligned import AlignedLoss
from m2det.loss.multibox import MultiBoxLoss, match
from m2det.loss.objective import Objective, Targets

__all__ = ["AlignedLoss", "MultiBoxLoss", "Objective", "Targets", "match"]
