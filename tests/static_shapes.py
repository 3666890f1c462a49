"""Refuses operators that stall an accelerator: their result's shape, or their answer, only the device knows."""

from contextlib import ExitStack

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from m2det.train import trainer as loop
from m2det.train.state import Run

DYNAMIC = {"nonzero", "masked_select", "_local_scalar_dense", "unique", "_unique2", "unique_dim", "bincount"}
ON_THE_HOST = {"scatter_reduce", "scatter_reduce_", "argsort"}  # kernels of torch_npu that compute on the CPU
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class StaticShapes(TorchDispatchMode):
    """While entered, an operator with a shape or a value that the host must wait for is an AssertionError.

    Sorting integers too: on an NPU the host does it.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in DYNAMIC | ON_THE_HOST, f"{name} waits for the device"
        if name in INDEXING:
            assert all(i is None or i.dtype != torch.bool for i in args[1]), f"{name} with a boolean mask"
        if name == "sort":
            assert args[0].is_floating_point(), "sort of integers"
        return func(*args, **(kwargs or {}))


def watched_steps(material, folder, params, monkeypatch):
    """Train, refusing what stalls from each batch's arrival to the end of its step; returns the steps watched."""
    watched = []
    learning_rate, agrees = Run.set_learning_rate, Run.agrees_to_stop
    with ExitStack() as watching:

        def begin(self):
            rate = learning_rate(self)
            watching.enter_context(StaticShapes())
            return rate

        def end(self, *arguments):
            watching.close()
            watched.append(self.step)
            return agrees(self, *arguments)

        monkeypatch.setattr(Run, "set_learning_rate", begin)
        monkeypatch.setattr(Run, "agrees_to_stop", end)
        loop.train(params, *material, folder / "state", folder / "log.txt")
    return watched
