"""Find where numbers that are not finite come from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from m2det.data.batch import collate
from m2det.errors import InputError
from m2det.model.preprocess import subtract_mean

if TYPE_CHECKING:
    from m2det.train.build import TrainingData, TrainingParts


def diagnose_nonfinite(parts: TrainingParts, data: TrainingData, microbatch: int) -> str:
    """Return a sentence on a loss that was not finite: the step, the first wrong number, the images.

    Args:
        parts: with the weights of that step, since no update follows a loss that is not finite.
        data: the images and their order.
        microbatch: its number in one process, from 0, over all epochs.
    """
    step, part = divmod(microbatch, data.order.accumulation)
    keys = data.order.microbatches(step)[part]
    images = subtract_mean(collate([data.samples[key] for key in keys]).to(parts.device).images, parts.device)
    with parts.precision.autocast():
        source = first_nonfinite(parts.model, images)
    ids = [int(data.train.image_ids[index]) for _, index in keys]
    process = f" in process {parts.group.rank}" if parts.group.size > 1 else ""
    return (
        f"the loss of step {step + 1}{process} is not finite; first: {source}; images {ids}; lower train.lr or set "
        "train.max_grad_norm, or look at these images"
    )


def check_finite_weights(model: nn.Module, step: int) -> None:
    """Raise InputError naming the first weights that are not finite: a finite loss may have an infinite gradient."""
    floating = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in floating.values()]).tolist()
    for name, is_finite in zip(floating, finite, strict=True):
        if not is_finite:
            raise InputError(
                f"after step {step} the weights {name} are not finite, because of the gradient of a finite loss; "
                "lower train.lr or set train.max_grad_norm"
            )


@torch.no_grad()
def first_nonfinite(model: nn.Module, images: Tensor) -> str:
    """Return a phrase that names the first weights, images or layer output that is not finite.

    Args:
        model: with the weights of the bad step; call this under the training's autocast.
        images: float32 [B,3,S,S], mean subtracted.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights {name}, by the update of an earlier step"
    if not images.isfinite().all():
        return "the images"
    layers: list[str] = []

    def check(name: str, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        if isinstance(output, Tensor) and not layers and not output.isfinite().all():
            layers.append(f"the output of layer {name} ({type(module).__name__})")

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    hooks = [module.register_forward_hook(partial(check, name)) for name, module in leaves]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return layers[0] if layers else "the loss itself, since all layers' outputs are finite: look at the boxes"
