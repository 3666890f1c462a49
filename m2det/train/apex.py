"""precision.backend apex: Ascend's build of apex scales and casts, to repeat an old run.

**Not tested on a device**: tests run it against a stand-in. Only Ascend's build (github.com/Ascend/apex) has
apex.amp: NVIDIA's has dropped it, and the package called apex on PyPI is something else.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from m2det.config import PrecisionParams
from m2det.errors import InputError
from m2det.train.amp import Precision


class ApexPrecision(Precision):
    """Precision's methods by apex.amp."""

    def __init__(self, params: PrecisionParams, device: torch.device) -> None:
        try:
            self._amp: Any = importlib.import_module("apex.amp")
            self._amp.initialize  # noqa: B018
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"precision.backend is 'apex', but there is no apex.amp.initialize ({error}): build Ascend's apex "
                "(github.com/Ascend/apex; NVIDIA's has dropped amp, PyPI's is another package), or use 'native'"
            ) from error
        super().__init__(params.model_copy(update={"opt_level": "O0"}), device)  # apex casts and scales by itself
        self._options = {"opt_level": params.opt_level, "loss_scale": params.loss_scale}
        self.reason = f"apex {params.opt_level} with loss scale {params.loss_scale}, not tested on a device"

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._amp.initialize(model, optimizer, **self._options)
        self._optimizer = optimizer

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()  # initialize has replaced torch's functions

    def backward(self, loss: Tensor) -> None:
        with self._amp.scale_loss(loss, self._optimizer) as scaled:
            scaled.backward()
