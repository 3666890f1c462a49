"""An exponential moving average of the weights (Polyak and Juditsky 1992), which often scores better than the last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from m2det.device import supports_foreach
from m2det.train.foreach import lerp_


class ModelEma:
    """The moving average of a model's state dict; with decay 0 the average is the model itself.

    Early steps count more: the decay is at most (1 + n) / (10 + n) after n steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._model = model
        self._steps = 0
        self._average = {k: v.clone() for k, v in model.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Add the model's weights after an optimizer step."""
        if not self.decay:
            return
        self._steps += 1
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        state = self._model.state_dict()
        floating = [k for k, v in self._average.items() if v.is_floating_point()]
        averages, weights = [self._average[k] for k in floating], [state[k] for k in floating]
        lerp_(averages, weights, 1 - decay, supports_foreach(weights[0].device))
        for key in self._average.keys() - set(floating):  # counters
            self._average[key].copy_(state[key])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block, and its own again after it."""
        if not self.decay:
            yield
            return
        own = {k: v.clone() for k, v in self._model.state_dict().items()}
        self._model.load_state_dict(self._average)
        try:
            yield
        finally:
            self._model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of steps in it."""
        return {"steps": self._steps, **self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what state_dict returned."""
        self._steps = state["steps"]
        for key, average in self._average.items():
            average.copy_(state[key])
