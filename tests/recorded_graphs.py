"""Graphs for a device that has none: torch's own make_graphed_callables over a recorder of operators.

Capturing keeps the operators that run and the memory of their arguments and results. Replaying runs them again on that
memory, whatever the tensors of the program are by then. So what is real: the buffers that the next replay overwrites,
gradients that are views of such buffers, parameters known by their address. What is not: a recorder computes while it
captures, and its graphs keep all of their memory, where real ones share it if they are replayed in the order of their
capture. Therefore another order is an AssertionError here.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from m2det import device


class Recorder(TorchDispatchMode):
    """Keep what runs while entered."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # the memory, not the tensor: a parameter that is replaced later has another one
        self.calls.append(tree_map_only(torch.Tensor, torch.Tensor.detach, (func, args, kwargs or {}, result)))
        return result


class RecordedGraph:
    """Takes the place of torch.cuda.CUDAGraph or torch_npu.npu.NPUGraph."""

    captured: ClassVar[list["RecordedGraph"]] = []  # all graphs in the order of their capture
    replayed: ClassVar[list[int]] = []  # their places in it

    def capture_begin(self, *_, **__):
        kinds = ("cpu", "npu") if hasattr(torch, "npu") else ("cpu",)
        assert not (torch.is_autocast_cache_enabled() and any(map(torch.is_autocast_enabled, kinds)))
        if self.replayed:  # those of a training before
            self.captured.clear()
            self.replayed.clear()
        self.recorder = Recorder()
        self.recorder.__enter__()

    def capture_end(self):
        self.recorder.__exit__(None, None, None)
        self.captured.append(self)

    @torch.no_grad()
    def replay(self):
        self.replayed.append(self.captured.index(self))
        assert self.replayed[-1] == (len(self.replayed) - 1) % len(self.captured), "not in the order of the capture"
        with torch._C._DisableAutocast():
            for func, args, kwargs, result in self.recorder.calls:
                for memory, value in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(memory, torch.Tensor) and memory.data_ptr() != value.data_ptr():  # else in place
                        memory.copy_(value)


@contextmanager
def recording(graph, pool=None):  # noqa: ARG001
    """Takes the place of torch.cuda.graph."""
    graph.capture_begin()
    yield
    graph.capture_end()


def give_the_cpu_graphs(monkeypatch):
    """Let run.graph work on the CPU, by torch.cuda.make_graphed_callables."""
    RecordedGraph.captured.clear()
    RecordedGraph.replayed.clear()
    monkeypatch.setitem(device.TRAITS, "cpu", replace(device.TRAITS["cpu"], supports_graphs=True))
    monkeypatch.setattr(torch.cpu, "make_graphed_callables", torch.cuda.make_graphed_callables, raising=False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())


def give_the_npu_recorded_graphs(monkeypatch):
    """Let torch_npu's own make_graphed_callables work without CANN."""
    RecordedGraph.captured.clear()
    RecordedGraph.replayed.clear()
    monkeypatch.setattr(torch.npu, "NPUGraph", RecordedGraph)
