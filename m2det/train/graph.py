"""run.graph: the backbone and the TUMs as captured graphs, which the host launches whole instead of kernel by kernel.

Sections instead of one graph of the step: the backward pass of a section hands over its gradients as soon as its graph
has run, so averaging them over the processes goes on beside the rest of the backward pass; and loss, clipping, loss
scale and optimizer stay as they are. Not run on a device.
"""

from __future__ import annotations

import copy
import logging
from functools import partial

import torch
from torch import Tensor, nn

from m2det.config import PrecisionParams, TrainParams
from m2det.device import capture_graphs, graph_support
from m2det.errors import InputError
from m2det.model import M2Det
from m2det.model.preprocess import subtract_mean
from m2det.train.amp import Precision

log = logging.getLogger(__name__)


def check_graph(
    settings: TrainParams, precision: PrecisionParams, compile: bool, device: torch.device, processes: int
) -> None:
    """Refuse what captured graphs cannot do, or what nobody documents for them.

    Args:
        settings: the section `train`.
        precision: the section `precision`.
        compile: run.compile.
        device: of this process.
        processes: that train together.

    Raises:
        InputError: names the setting that does not go with run.graph, or the device.
    """
    supported, reason = graph_support(device)
    accumulation = settings.accumulation(processes)
    refusals = {
        f"{reason}: set run.graph to false": not supported,
        "run.compile is true, too: set one of them to false": compile,
        "precision.backend is apex, whose casts torch does not know of: set precision.backend to native": (
            precision.backend == "apex"
        ),
        "train.sync_bn is true, and nobody documents its communication inside of a graph: set one of them to false": (
            settings.sync_bn
        ),
        # torch returns the graph's own buffers as gradients: https://github.com/pytorch/pytorch/issues/181723
        f"each process computes {accumulation} microbatches of a step one after the other, and a graph overwrites the "
        f"gradients of the microbatch before: set run.processes to {processes * accumulation}, or train.batch_size to "
        f"{settings.microbatch * processes}, or run.graph to false": accumulation > 1,
    }
    for sentence, refused in refusals.items():
        if refused:
            raise InputError(f"run.graph is true, but {sentence}")


def graphed_network(model: M2Det, microbatch: int, precision: Precision, device: torch.device) -> M2Det:
    """Return a network for training that has the model's parameters and buffers and replays captured graphs.

    The model keeps its own sections, so evaluation, copies and hooks know of no graph. Parameters and buffers must not
    be replaced afterwards, only changed in place: the graphs hold their addresses.

    Args:
        model: in training mode, on the device.
        microbatch: images of every call of the network.
        precision: of the training.
        device: of the model.
    """
    names = ["base", *(f"unet{level + 1}" for level in range(model.config.levels))]
    size = model.config.size
    # with the strides of the loader's batches: with others the first convolution would add up in another order
    images = torch.zeros(microbatch, size, size, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    statistics = [buffer.clone() for buffer in model.buffers()]
    # without a cache: a graph must cast the weights anew each time
    with torch.autocast(device.type, dtype=precision.dtype, enabled=precision.low_precision, cache_enabled=False):
        inputs = section_inputs(model, names, subtract_mean(images, device))
        # shallow copies: the same parameters under another `forward`
        sections = capture_graphs(tuple(copy.copy(model.get_submodule(name)) for name in names), inputs, device)
    for buffer, value in zip(model.buffers(), statistics, strict=True):
        buffer.copy_(value)  # capturing has run the network
    network = copy.copy(model)
    network._modules = {**model._modules, **dict(zip(names, sections, strict=True))}
    log.info("network: %d sections captured as graphs (%s)", len(sections), graph_support(device)[1])
    return network


def section_inputs(model: nn.Module, names: list[str], images: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """Return copies of the arguments that each named submodule gets in a forward pass of the images."""
    inputs: dict[str, tuple[Tensor, ...]] = {}

    def keep(name: str, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[name] = tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in arguments)

    hooks = [model.get_submodule(name).register_forward_pre_hook(partial(keep, name)) for name in names]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(inputs[name] for name in names)
