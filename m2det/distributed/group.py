"""The processes that train together, one per device; a group of one process has the same methods."""

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
    """This process's place in a group.

    Attributes:
        rank: from 0.
        size: processes in all (world size).
        local_rank: which of this machine's devices the process uses.
        node: this machine's number, from 0.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    node: int = 0

    @classmethod
    def from_environment(cls) -> Group:
        """Return what torchrun's environment variables say, or a group of one process where they are not set."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if "RANK" not in os.environ:
            return cls()
        rank, size, local_rank = (int(os.environ[name]) for name in names)
        return cls(rank, size, local_rank, int(os.environ.get("GROUP_RANK", "0")))

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def local_device(self, device: torch.device) -> torch.device:
        """Return this process's own device of the chosen kind; all processes share the CPU."""
        if device.type == "cpu" or self.size == 1:
            return device
        torch.accelerator.set_device_index(self.local_rank)
        return torch.device(device.type, self.local_rank)

    def init(self, device: torch.device) -> None:
        """Join the group through the backend of the device: hccl, nccl or gloo."""
        if self.size > 1 and not dist.is_initialized():
            backend = dist.get_default_backend_for_device(device)
            dist.init_process_group(backend, timeout=timedelta(minutes=30))

    def destroy(self) -> None:
        """Leave the group after the work; not after a failure, where leaving could wait for other processes for ever.

        Threads of gloo that live until the interpreter ends can make it abort.
        """
        if dist.is_initialized():
            dist.destroy_process_group()

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model with gradients averaged over all processes and rank 0's running statistics in all of them.

        The order of sums must be the same in every step, or a resumed run would have other bits: searching for unused
        parameters (there are none) keeps DDP from rebuilding its buckets after the first step.
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
        """Add up gradients inside in this process only; the first backward pass outside averages them over all."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def all_reduce_any(self, flag: Tensor) -> Tensor:
        """Return whether the bool scalar is true in any process, without host synchronization."""
        if self.size == 1:
            return flag
        total = flag.to(torch.int32)
        dist.all_reduce(total, dist.ReduceOp.MAX)
        return total > 0

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Return the sum over all processes, without host synchronization."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def all_reduce_max(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Return the maximum of each value over all processes; waits for all of them."""
        if self.size == 1:
            return list(values)
        maxima = torch.tensor(values, dtype=torch.float32, device=device)
        dist.all_reduce(maxima, dist.ReduceOp.MAX)
        return maxima.tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank; waits for all of them."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any, device: torch.device) -> Any:
        """Return rank 0's value; waits for it.

        Args:
            value: of rank 0; what other processes give is not looked at.
            device: of this process.
        """
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, 0, device=device)
        return values[0]

    def barrier(self) -> None:
        """Wait until all processes call this."""
        self.all_gather(None)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's running statistics to all processes."""
        for buffer in model.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, 0)


ALONE = Group()
