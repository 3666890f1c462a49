"""A moving average of the weights (Polyak and Juditsky 1992), which often evaluates better than the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """decay: share of the old average kept per step; 0 keeps none, so that the average is the model itself.

    Early steps count more: the share is at most (1 + n) / (10 + n) after n steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._model = model
        self._steps = 0
        self._tensors = {k: v.clone() for k, v in model.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer step."""
        if not self.decay:
            return
        self._steps += 1
        share = min(self.decay, (1 + self._steps) / (10 + self._steps))
        state = self._model.state_dict()
        floating = [k for k, v in self._tensors.items() if v.is_floating_point()]
        torch._foreach_lerp_([self._tensors[k] for k in floating], [state[k] for k in floating], 1 - share)
        for key in self._tensors.keys() - set(floating):  # counters
            self._tensors[key].copy_(state[key])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside; its own come back."""
        if not self.decay:
            yield
            return
        own = {k: v.clone() for k, v in self._model.state_dict().items()}
        self._model.load_state_dict(self._tensors)
        try:
            yield
        finally:
            self._model.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor | int]:
        return {"steps": self._steps, **self._tensors}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        steps = state["steps"]
        assert isinstance(steps, int)
        self._steps = steps
        for key, tensor in self._tensors.items():
            saved = state[key]
            assert isinstance(saved, Tensor)
            tensor.copy_(saved)
