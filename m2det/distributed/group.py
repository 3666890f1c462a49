"""The processes that train together, one per device; the same calls where there is only one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Group:
    """This process's place: rank of `size`, and which of this machine's devices is its own."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Group:
        """As torchrun says it; alone where it did not start us."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return cls(*(int(os.environ[name]) for name in names)) if "RANK" in os.environ else cls()

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def local_device(self, device: torch.device) -> torch.device:
        """Of several devices of the chosen kind, this process's; the CPU is everybody's."""
        if device.type == "cpu" or self.size == 1:
            return device
        torch.accelerator.set_device_index(self.local_rank)
        return torch.device(device.type, self.local_rank)

    def init(self, device: torch.device) -> None:
        """Join the others by what the device's backend is: hccl, nccl or gloo."""
        if self.size > 1 and not dist.is_initialized():
            backend = dist.get_default_backend_for_device(device)
            dist.init_process_group(backend, timeout=timedelta(minutes=30))

    def destroy(self) -> None:
        """What everybody calls whose work is done; not after a failure, where it could wait for the others for ever.

        Left to the end of the process, gloo's threads may outlive the interpreter, which then aborts.
        """
        if dist.is_initialized():
            dist.destroy_process_group()

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model with gradients averaged over all, and rank 0's running statistics for everyone.

        What is added up in which order must be the same in every step, or a resumed run would have other bits: looking
        for unused parameters, of which there are none, keeps DDP from arranging its buckets anew after the first one.
        """
        if self.size == 1:
            return model
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
        return DistributedDataParallel(
            model,
            None if device.type == "cpu" else [device.index],
            gradient_as_bucket_view=True,
            find_unused_parameters=True,
        )

    def no_sync(self, network: nn.Module) -> AbstractContextManager[None]:
        """Gradients inside are added up here only; the first backward pass outside shares them all."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def all_reduce_any(self, flag: Tensor) -> Tensor:
        """Whether the bool scalar is true anywhere; stays on the device, nothing waits for it."""
        if self.size == 1:
            return flag
        total = flag.to(torch.int32)
        dist.all_reduce(total, dist.ReduceOp.MAX)
        return total > 0

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum over all; stays on the device, nothing waits for it."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def all_reduce_max(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The highest of each value anywhere; waits for all."""
        if self.size == 1:
            return list(values)
        highest = torch.tensor(values, dtype=torch.float32, device=device)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return highest.tolist()

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """Over all processes; exactly `values` where there is one."""
        return self.all_reduce_sum(values) / self.size

    def all_gather(self, value: Any) -> list[Any]:
        """Everyone's value, by rank; waits for all."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Until all are here."""
        self.all_gather(None)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give everyone rank 0's running statistics."""
        for buffer in model.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, 0)
