"""The mean losses of the epoch so far, and whether all were finite: kept on the device, read when a line is due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from m2det.distributed.group import Group
from m2det.errors import InputError


class LossMonitor:
    """Sums of the losses since the epoch's start, and the first microbatch whose loss was not finite."""

    def __init__(self, group: Group, device: torch.device, diagnose: Callable[[int], str]) -> None:
        """Begin an epoch.

        Args:
            group: the processes whose losses are averaged.
            device: where the losses are computed.
            diagnose: called by all processes with the number of the first microbatch (from 0, of one process, over all
                epochs) whose loss was not finite; returns a sentence.
        """
        self._group, self._device, self._diagnose = group, device, diagnose
        self.reset()

    def reset(self) -> None:
        """Begin another epoch."""
        self._sum = torch.zeros(2, device=self._device)
        self._steps = 0
        self._bad_microbatch = torch.tensor(-1, device=self._device)

    def update(self, microbatch: int, losses: dict[str, Tensor]) -> None:
        """Add the losses of one microbatch, without host synchronization."""
        both = torch.stack([losses["loc"], losses["conf"]]).detach()
        bad = (self._bad_microbatch < 0) & ~both.isfinite().all()
        self._bad_microbatch = torch.where(bad, microbatch, self._bad_microbatch)
        self._sum += both

    def end_step(self) -> None:
        """Count one step, whatever the number of its microbatches."""
        self._steps += 1

    def found_nonfinite(self) -> Tensor:
        """Return a bool scalar on the device: whether any process has had a loss that is not finite in this epoch."""
        return self._group.all_reduce_any(self._bad_microbatch >= 0)

    def mean(self) -> dict[str, float]:
        """Return `loc` and `conf` per step, averaged since the epoch's start and over all processes.

        Raises:
            InputError: a loss was not finite; with the sentence of `diagnose`.
        """
        own = int(self._bad_microbatch)
        if bad := [number for number in self._group.all_gather(own) if number >= 0]:
            first = min(bad)
            sentence = self._diagnose(first)  # by all: batch normalisation may be over the images of all processes
            raise InputError(next(filter(None, self._group.all_gather(sentence if own == first else ""))))
        if not self._steps:
            return {}
        loc, conf = (self._group.all_reduce_sum(self._sum / self._steps) / self._group.size).tolist()
        return {"loc": loc, "conf": conf}

    def own_mean(self) -> dict[str, float]:
        """Return `mean` of this process alone, finite or not, without the others; {} rather than wait for a device."""
        if self._device.type != "cpu" or not self._steps:
            return {}
        loc, conf = (self._sum / self._steps).tolist()
        return {"loc": loc, "conf": conf}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of all processes, which call this together, after `mean` has found the losses finite."""
        return {"sums": self._group.all_gather(self._sum.tolist()), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from this process's sums, or from the mean of all where the number of processes has changed."""
        sums = torch.tensor(state["sums"], device=self._device)
        self._sum = sums[self._group.rank] if len(sums) == self._group.size else sums.mean(0)
        self._steps = state["steps"]
