"""The losses of the epoch so far, and whether all of them were finite: kept on the device, read when a line is due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from m2det.distributed.group import Group
from m2det.errors import InputError


class LossMonitor:
    """explain: called with the number of the first batch (from 0, this process's own, over all epochs) whose loss
    was not finite; returns a sentence."""

    def __init__(self, group: Group, device: torch.device, explain: Callable[[int], str]) -> None:
        self._group, self._device, self._explain = group, device, explain
        self.reset()

    def reset(self) -> None:
        """A new epoch begins."""
        self._sum = torch.zeros(2, device=self._device)
        self._steps = 0
        self._bad_batch = torch.tensor(-1, device=self._device)

    def note(self, batch: int, losses: dict[str, Tensor]) -> None:
        """Add up the losses of one batch; nothing waits for the device."""
        both = torch.stack([losses["loc"], losses["conf"]]).detach()
        bad = (self._bad_batch < 0) & ~both.isfinite().all()
        self._bad_batch = torch.where(bad, batch, self._bad_batch)
        self._sum += both

    def did_step(self) -> None:
        self._steps += 1

    def failed(self) -> Tensor:
        """bool scalar on the device: some process has had a loss that is not finite, in this step or before."""
        return self._group.all_reduce_any(self._bad_batch >= 0)

    def mean(self) -> dict[str, float]:
        """Per step, over all processes. Raises InputError where one was not finite, in the words of `explain`."""
        bad = int(self._bad_batch)
        if everywhere := [number for number in self._group.all_gather(bad) if number >= 0]:
            first = min(everywhere)
            sentence = self._explain(first)  # by all: batch normalisation may be over all processes' images
            raise InputError(next(filter(None, self._group.all_gather(sentence if bad == first else ""))))
        if not self._steps:
            return {}
        loc, conf = self._group.all_reduce_mean(self._sum / self._steps).tolist()
        return {"loc": loc, "conf": conf}

    def state_dict(self) -> dict[str, Any]:
        """Of all processes, who call it together. Without a bad batch: `mean` comes before it is saved."""
        return {"sums": self._group.all_gather(self._sum.tolist()), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """This process's own sums; another number of processes than before shares them alike."""
        sums = torch.tensor(state["sums"], device=self._device)
        self._sum = sums[self._group.rank] if len(sums) == self._group.size else sums.mean(0)
        self._steps = state["steps"]
