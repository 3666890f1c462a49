"""precision.backend apex: Ascend's build of apex does the scaling and the casting, to repeat an old run.

**Not tested on a device**: tests run it against a stand-in. Only Ascend's build (github.com/Ascend/apex) has
what is needed: NVIDIA's has dropped amp, and the package called apex on PyPI is something else.
"""

from __future__ import annotations

import importlib
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from m2det.config import PrecisionParams
from m2det.errors import InputError
from m2det.train.amp import Precision

log = logging.getLogger(__name__)


class ApexPrecision(Precision):
    """The same calls as Precision's."""

    def __init__(self, params: PrecisionParams, device: torch.device) -> None:
        self.device, self.dtype, self.half, self.dynamic = device, torch.float32, False, False
        self._static, self._scaler, self._before = 1.0, torch.amp.GradScaler(device.type, enabled=False), []
        try:
            self._amp: Any = importlib.import_module("apex.amp")
            self._amp.initialize  # noqa: B018
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"precision.backend is 'apex', but there is no apex.amp.initialize ({error}): build Ascend's apex "
                "(github.com/Ascend/apex; NVIDIA's has dropped amp, PyPI's is another package), or use 'native'"
            ) from error
        self._level, self._wanted = params.opt_level, params.loss_scale
        log.warning("warning: precision by apex %s, loss scale %s; not tested on a device", self._level, self._wanted)

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._amp.initialize(model, optimizer, opt_level=self._level, loss_scale=self._wanted)  # both in place at O1
        self._optimizer = optimizer

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()  # initialize has replaced torch's functions

    def backward(self, loss: Tensor) -> None:
        with self._amp.scale_loss(loss, self._optimizer) as scaled:
            scaled.backward()
