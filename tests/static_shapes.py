"""Refuses operators that stall an accelerator: their result's shape, or their answer, only the device knows."""

from contextlib import ExitStack

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from m2det.train import train
from m2det.train.state import Callbacks

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


class Watch(Callbacks):
    """Refuse what stalls from each batch's arrival to the end of its step."""

    def __init__(self):
        self.steps, self.watching = [], ExitStack()

    def on_step_begin(self, state):  # noqa: ARG002
        self.watching.enter_context(StaticShapes())

    def on_step_end(self, state):
        self.watching.close()
        self.steps.append(state.step)


def watched_steps(material, folder, params):
    """Train under Watch; returns the steps watched."""
    watch = Watch()
    with watch.watching:
        train(params, *material, folder / "state", folder / "log.txt", callbacks=watch)
    return watch.steps
